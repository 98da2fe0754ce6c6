"""Phase 1: an autoencoder of fields learns to give values anywhere from values somewhere.

    e_b = mean_c |decode(encode(inputs_b), c) − value_b(c)|²     queries c are none of the inputs
    squared: loss = mean_b e_b
    decibels: loss = mean_b ln(e_b + ε)

PSNR of images is a mean of logarithms: an error on a smooth image, where little is to be erred,
costs as much as a far larger one on a rough image. A mean of squares is ruled by the rough ones.

Inputs and queries are drawn anew for every batch (`latentsmith.data.fields.batches`). Source:
spec/4-field-autoencoder.md "Training".
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.backbones.mixers import Points
from latentsmith.data.fields.batches import Draw
from latentsmith.metrics.field_values import decibels
from latentsmith.training.task import Batch, Objective, StepContext, Task

Compared = Literal["squared", "decibels"]
INVISIBLE = 5e-6
"""ε: the squared error of rounding to 8 bits, in [-1, 1]."""


class FieldTask(Task):
    """See the module's text.

    Args:
        autoencoder: trained in place.
        draw: from a batch to points that are given and asked, see
            `latentsmith.data.fields.batches`.
        compared: how errors of different signals count.
    """

    def __init__(self, autoencoder: FieldAutoencoder, draw: Draw, compared: Compared = "squared"):
        super().__init__()
        self.autoencoder, self.draw, self.compared = autoencoder, draw, compared

    def objectives(self) -> list[Objective]:
        """One, over all weights."""
        params = self.autoencoder.trainable_parameters()
        return [Objective("autoencoder", params, undecayed=undecayed(self.autoencoder))]

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Loss of one micro-batch; ``psnr`` of the queries, dB, of values in [-1, 1]: a mean over
        signals."""
        seen = self.draw(batch, ctx.noise("points"))
        codes = self.autoencoder.codes(Points(seen.input_coordinates), seen.input_values)
        codes = self._noised(codes, ctx) if self.training else codes
        told = self.autoencoder.values(codes, [Points(seen.query_coordinates)])
        errors = (told - seen.query_values).square().mean((1, 2))  # [B]
        logs = (errors + INVISIBLE).log()
        loss = errors.mean() if self.compared == "squared" else logs.mean()
        return {"loss": loss, "psnr": decibels(errors.detach()).mean()}

    def _noised(self, codes: Tensor, ctx: StepContext) -> Tensor:
        share = self.autoencoder.config.latent.noise
        if share == 0:
            return codes
        noise = torch.randn(codes.shape, generator=ctx.noise("codes"), device=codes.device)
        return codes + share * codes.detach().std() * noise

    @torch.no_grad()
    def sample_grid(self, batch: Batch, ctx: StepContext) -> Tensor | None:
        """Images and their reconstructions, where batches hold such."""
        if "image" not in batch:
            return None
        few = batch["image"][:8]
        return torch.cat([few, self.autoencoder.decode(self.autoencoder.encode(few).mode())])

    def save_pretrained(self, folder: Path | str) -> None:
        """See `FieldAutoencoder.save_pretrained`."""
        self.autoencoder.save_pretrained(folder)


def undecayed(network: torch.nn.Module) -> list[torch.nn.Parameter]:
    """What weight decay would slow down or widen: decays, steps, radii and the variogram."""
    names = ("log_decay", "step_bias", "log_radius", "power_logit", "log_nugget", "skip")
    return [p for name, p in network.named_parameters() if name.endswith(names)]
