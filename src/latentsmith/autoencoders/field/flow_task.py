"""Phase 2 on values: training a `FieldFlow`, the encoder frozen."""

from pathlib import Path

import torch
from torch import Tensor

from latentsmith.autoencoders.field.flow import FieldFlow
from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.autoencoders.field.task import undecayed
from latentsmith.backbones.mixers import Points
from latentsmith.data.fields import FieldBatch
from latentsmith.data.fields.batches import Draw
from latentsmith.diffusion.parametrization import of_pair
from latentsmith.errors import UserError
from latentsmith.training.task import Batch, Objective, StepContext, Task


class FieldFlowTask(Task):
    """mean |decoder(tokens, c, z_t(c), t) − velocity|² over queries c.

    Args:
        flow: trained in place.
        draw: from a batch to points that are given and asked, see
            `latentsmith.data.fields.batches`.
        autoencoder: phase 1's, whose code the flow is told; it is frozen here (no gradient, no
            dropout), so what it reconstructs stays as it was. Not needed where told=inputs.

    Raises:
        UserError: a flow that is told a code, without an autoencoder.
    """

    def __init__(
        self,
        flow: FieldFlow,
        draw: Draw,
        *,
        autoencoder: FieldAutoencoder | None = None,
    ):
        super().__init__()
        if flow.config.told == "code" and autoencoder is None:
            raise UserError(
                "this flow is told latent tokens: give the autoencoder that makes them, or set "
                "told=inputs"
            )
        self.flow, self.draw, self.autoencoder = flow, draw, autoencoder
        if autoencoder is not None:
            autoencoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FieldFlowTask":
        """The frozen autoencoder stays in evaluation mode."""
        super().train(mode)
        if self.autoencoder is not None:
            self.autoencoder.eval()
        return self

    def objectives(self) -> list[Objective]:
        """One, over the flow's weights."""
        params = list(self.flow.parameters())
        return [Objective("flow", params, undecayed=undecayed(self.flow))]

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Loss of one micro-batch; ``zero``: of a decoder that says 0."""
        seen = self.draw(batch, ctx.noise("points"))
        tokens, points = self.told(seen)
        flow, data = self.flow, seen.query_values
        t = flow.config.times.sample(len(data), ctx.noise("time"), flow.path)
        rng = ctx.noise("noise")
        drawn = torch.randn((len(data), *flow.noise.shape), generator=rng, device=rng.device)
        noise = flow.noise(drawn, seen.query_coordinates)
        z = flow.path.mix(data, noise, t)
        target = of_pair(data, noise, t, flow.path, "velocity")
        context = flow.decoder.context(tokens, points)
        said = flow.decoder(context, points, Points(seen.query_coordinates), noisy=z, t=t)
        loss = (said - target).square().mean()
        return {"loss": loss, "zero": target.square().mean()}

    @torch.no_grad()
    def told(self, seen: FieldBatch) -> tuple[Tensor, Points]:
        """Tokens [B, K, z] and where they lie."""
        points = Points(seen.input_coordinates)
        if self.flow.config.told == "inputs":
            return seen.input_values, points
        assert self.autoencoder is not None
        codes = self.autoencoder.codes(points, seen.input_values)
        return codes.flatten(2).mT, self.autoencoder.anchors()

    def save_pretrained(self, folder: Path | str) -> None:
        """See `FieldFlow.save_pretrained`."""
        self.flow.save_pretrained(folder)
