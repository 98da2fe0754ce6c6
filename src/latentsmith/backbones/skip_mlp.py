"""``skip_mlp``: an MLP over a whole latent, seen again by every layer (DiffAE's latent network).

    c = time(t) + label(y)                                       [B, D]
    h = SiLU(norm(linear(h, z)) (1 + scale(c)) + shift(c))       depth times; the first sees z alone
    z' = linear(h, z)                                            0 at the start

For latents that are one vector (``latent.tokens=1`` of a field), where there is no grid to attend
over. Preechakul et al. 2022 (arXiv 2111.15640, appendix A: 10 to 20 layers of 2,048).
"""

from collections.abc import Collection
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from latentsmith.backbones.base import (
    BACKBONES,
    BackboneConfig,
    BackboneOutput,
    Condition,
    Tap,
)
from latentsmith.backbones.blocks.embedders import LabelEmbedder, TimeEmbedder
from latentsmith.backbones.blocks.modulation import Modulation
from latentsmith.backbones.blocks.norms import normalize
from latentsmith.backbones.blocks.weights import Linear, draw
from latentsmith.backbones.class_condition import ClassConditional, check_classes
from latentsmith.config.schema import schema


@BACKBONES.register("skip_mlp", help="an MLP over the whole latent, for latents that are a vector")
@schema
class SkipMLPConfig(BackboneConfig):
    """Layers that all see the latent."""

    kind: Literal["skip_mlp"] = "skip_mlp"
    width: Annotated[int, Field(gt=0)] = 2048
    """Channels of a layer."""
    depth: Annotated[int, Field(gt=0)] = 10
    """Layers."""
    time_scale: float = 1000.0
    """The time embedder sees time_scale x t, t in [0, 1]."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass."""

    def build(self, latent_shape: tuple[int, int, int], classes: int | None) -> "SkipMLP":
        """See `BackboneConfig.build`; any shape, which is flattened."""
        return SkipMLP(self, latent_shape, classes)


class Layer(nn.Module):
    """One modulated layer: (h [B, D] or nothing, z [B, N], c [B, D]) → [B, D]."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.linear = Linear(inputs, width)
        self.modulation = Modulation(width, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x [B, inputs], activated condition c [B, D] → [B, D]."""
        shift, scale = (v[:, 0] for v in self.modulation.vectors(c))
        return F.silu(torch.addcmul(shift, normalize(self.linear(x), "layer"), 1 + scale))


class SkipMLP(ClassConditional):
    """See the module's text. Start: `SkipMLPConfig.build`."""

    config: SkipMLPConfig

    def __init__(
        self, config: SkipMLPConfig, latent_shape: tuple[int, int, int], classes: int | None
    ):
        super().__init__()
        check_classes(classes)
        self.config, self.predicts = config, config.predicts
        self.latent_shape, self.classes = latent_shape, classes
        self.width, self.depth, self.grid = config.width, config.depth, (1, 1)
        channels, height, width = latent_shape
        count = channels * height * width
        self.time = TimeEmbedder(self.width, scale=config.time_scale, shift=0.0)
        self.label = None if classes is None else LabelEmbedder(classes, self.width)
        self.layers = nn.ModuleList(
            Layer(count + (self.width if k else 0), self.width) for k in range(self.depth)
        )
        self.final = Linear(self.width + count, count)
        draw(self, config.init_seed, _spread)

    def forward(
        self, z: Tensor, t: Tensor, condition: Condition, *, taps: Collection[Tap] = ()
    ) -> BackboneOutput:
        """See `Backbone.forward`; a layer's output is one token. Raises UserError as
        `latentsmith.backbones.dit.DiT.forward` does."""
        self._check(z, t, condition, taps)
        flat = z.flatten(1).to(self.final.weight.dtype)
        c = self.time(t)
        if self.label is not None:
            c = c + self.label(condition["label"])
        c, h = F.silu(c), flat
        again = self.config.gradient_checkpointing and torch.is_grad_enabled()
        hidden: dict[Tap, Tensor] = {}
        for number, layer in enumerate(self.layers, start=1):
            x = h if number == 1 else torch.cat([h, flat], dim=1)
            h = checkpoint(layer, x, c, use_reentrant=False) if again else layer(x, c)
            if number in taps:
                hidden[number] = h[:, None]
        out = self.final(torch.cat([h, flat], dim=1))
        return BackboneOutput(out.to(z.dtype).view_as(z), None, hidden)


def _spread(name: str) -> float | None:
    """See `draw`."""
    if name.startswith("final") or "modulation" in name:
        return 0.0
    return 0.02 if name.startswith(("time.", "label.")) else None
