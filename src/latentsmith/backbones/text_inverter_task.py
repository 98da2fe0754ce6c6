"""Training of `latentsmith.backbones.text_inverter` on texts with latents."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.backbones.text_inverter import TextInverter
from latentsmith.backbones.text_inverter_saved import save_inverter
from latentsmith.errors import UserError
from latentsmith.training.task import Batch, Objective, StepContext, Task


class TextInverterTask(Task):
    """Cross-entropy of texts given their latents.

    Batches: ``tokens`` int64 [B, L], ``latents`` float32 [B, *latent_shape], and where some are
    missing ``has_text`` and ``has_latent`` bool [B]: a pair is needed, other rows do not count.

    Args:
        network: trained in place.
        noise: deviation of normal noise added to normalized latents in training, which makes a
            decoder robust (0: none).
    """

    def __init__(self, network: TextInverter, noise: float = 0.0):
        super().__init__()
        self.network, self.noise = network, noise

    def objectives(self) -> list[Objective]:
        """One, over the network."""
        return [Objective("inverter", list(self.network.parameters()))]

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Mean nats per token of content and EOS, over all pairs of the micro-batch.

        Raises:
            UserError: no pair in it.
        """
        tokens, latents = self._pairs(batch)
        if self.noise and not ctx.fixed_noise:
            drawn = torch.randn(latents.shape, generator=ctx.noise("latent"), device=latents.device)
            latents = latents + self.noise * drawn
        nats, counted = self.network.nll(tokens, latents)
        return {"loss": (nats * counted).sum() / counted.sum()}

    def _pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        tokens, latents = batch["tokens"], batch["latents"]
        pair = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        for name in ("has_text", "has_latent"):
            pair = pair & batch.get(name, pair)
        if not bool(pair.any()):
            raise UserError(
                "a batch holds no text with its latent, and an inverter learns from pairs only: "
                "leave unpaired rows out (pairing.drop=true)"
            )
        return tokens[pair], latents[pair]

    def save_pretrained(self, folder: Any) -> None:
        """Write ``text_inverter.json`` and ``text_inverter.safetensors``."""
        save_inverter(self.network, Path(folder))
