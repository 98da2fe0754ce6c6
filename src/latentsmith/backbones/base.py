"""What every denoising network promises."""

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor, nn

from latentsmith.config.schema import schema
from latentsmith.diffusion.parametrization import Parametrization
from latentsmith.registry import Registry

BACKBONES = Registry("backbone", "latentsmith.backbones")

Condition = dict[str, Tensor]
"""What a sample is generated from, one tensor [B, …] per name: ``label`` int64 [B], later text
tokens and images. Empty for unconditional models."""


@dataclass
class BackboneOutput:
    """What a denoiser saw in noisy latents.

    ``sample`` [B, C, H, W], in the network's own parametrization (`Backbone.predicts`);
    ``variance`` [B, C, H, W], the raw second half of networks that also learn the variance (DiT),
    else None; ``hidden`` block index → tokens [B, N, D] after that block, for the blocks asked for.
    """

    sample: Tensor
    variance: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)


@schema
class BackboneConfig:
    """Base of all backbone configs. Subclasses add ``kind: Literal[...]`` and `build`."""

    kind: str
    predicts: Parametrization = "velocity"
    """What the network's output means: velocity (SiT), noise (DiT), v, data or score. Separate
    from what the loss compares (`DiffusionConfig.objective`)."""
    init_seed: int = 0
    """Seed of the initial weights."""

    def build(self, latent_shape: tuple[int, int, int], classes: int | None) -> "Backbone":
        """A fresh network, float32.

        Args:
            latent_shape: (C, H, W) of the latents.
            classes: number of classes, None for unconditional.

        Raises:
            UserError: the latent's side is no multiple of the patch.
        """
        raise TypeError(f"{type(self).__name__} has no build()")


class Backbone(nn.Module):
    """A network from noisy latents, time and condition to a prediction.

    Attributes:
        predicts: what the output means.
        latent_shape: (C, H, W).
        classes: number of classes, None when unconditional.
        config: the settings it was built from.
        width: D of `BackboneOutput.hidden`.
        depth: number of blocks.
        grid: (rows, columns) of the token grid.
    """

    predicts: Parametrization
    latent_shape: tuple[int, int, int]
    classes: int | None
    config: BackboneConfig
    width: int
    depth: int
    grid: tuple[int, int]

    def forward(
        self, z: Tensor, t: Tensor, condition: Condition, *, taps: Collection[int] = ()
    ) -> BackboneOutput:
        """z [B, C, H, W], t [B] in [0, 1] (0 = data, 1 = noise) → output; ``taps``: blocks
        1…depth whose tokens are wanted."""
        raise TypeError(f"{type(self).__name__} has no forward()")

    def null(self, condition: Condition) -> Condition:
        """The condition that says nothing, of the same batch size: what label dropout puts in the
        place of a condition and what guidance compares with. Raises UserError when the network
        was built without one (unconditional)."""
        raise TypeError(f"{type(self).__name__} has no null()")
