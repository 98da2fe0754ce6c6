"""From a latent to pixels: PS-VAE's convolutional decoder.

Source: spec/3-ps-vae.md "Stage 2". At the paper's scale [B, 96, 16, 16] → [B, 3, 256, 256].
"""

from dataclasses import field
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.config.schema import schema


@schema
class PixelDecoderConfig:
    """conv, norm, SiLU; at each level two residual blocks, ×2 and a conv; norm, SiLU, conv (to
    patches of pixels)."""

    width: Annotated[int, Field(gt=0)] = 512
    """Channels after the first convolution."""
    levels: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)] = field(
        default_factory=lambda: [512, 512, 256, 128]
    )
    """Channels that each level ends with; every level doubles both sides."""
    blocks: Annotated[int, Field(ge=0)] = 2
    """Residual blocks at each level, before it doubles."""
    groups: Annotated[int, Field(gt=0)] = 32
    """Groups of the group norms: divides every width."""
    patch: Annotated[int, Field(gt=0)] = 1
    """Side of the square of pixels that each position of the last level gives at once (sub-pixel
    convolution, Shi et al. 2016). 2 in the place of a last level spares small decoders the full
    resolution, where most of their work is."""

    def __post_init__(self) -> None:
        bad = [width for width in (self.width, *self.levels) if width % self.groups]
        if bad:
            raise ValueError(
                f"widths {bad} are no multiples of groups {self.groups}: set groups to a common "
                "divisor"
            )

    @property
    def factor(self) -> int:
        """Pixels per latent position, along each side."""
        return self.patch * 2 ** len(self.levels)

    @property
    def scale(self) -> str:
        """How `factor` comes about, for messages."""
        doubled = f"each of {len(self.levels)} levels doubles it"
        return doubled if self.patch == 1 else f"{doubled}, and a patch of {self.patch} ends it"

    def build(self, latent_channels: int, channels: int = 3) -> "PixelDecoder":
        """For latents of so many channels, giving images of ``channels``."""
        return PixelDecoder(self, latent_channels, channels)


class _Level(nn.Module):
    """Residual blocks, then twice the sides: [B, a, h, w] → [B, b, 2 h, 2 w]."""

    def __init__(self, a: int, b: int, config: PixelDecoderConfig):
        super().__init__()
        from diffusers.models.resnet import ResnetBlock2D
        from diffusers.models.upsampling import Upsample2D

        timeless: Any = None  # typed as if every block were told a timestep
        self.blocks = nn.ModuleList(
            ResnetBlock2D(in_channels=a, temb_channels=timeless, groups=config.groups)
            for _ in range(config.blocks)
        )
        self.up = Upsample2D(a, use_conv=True, out_channels=b)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, None)
        return self.up(x)


class PixelDecoder(nn.Module):
    """See `PixelDecoderConfig`; blocks are diffusers' ``ResnetBlock2D`` and ``Upsample2D``."""

    def __init__(self, config: PixelDecoderConfig, latent_channels: int, channels: int):
        super().__init__()
        widths = [config.width, *config.levels]
        self.conv_in = nn.Conv2d(latent_channels, config.width, 3, padding=1)
        self.norm_in = nn.GroupNorm(config.groups, config.width)
        self.levels = nn.ModuleList(_Level(a, b, config) for a, b in pairwise(widths))
        self.norm_out = nn.GroupNorm(config.groups, widths[-1])
        self.patch = config.patch
        self.conv_out = nn.Conv2d(widths[-1], channels * config.patch**2, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """[B, C, h, w] → [B, channels, f h, f w], about [-1, 1]."""
        x = F.silu(self.norm_in(self.conv_in(latents)))
        for level in self.levels:
            x = level(x)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.patch)
