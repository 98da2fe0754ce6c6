r"""``eqvae``: decoding a transformed latent must give the transformed image (EQ-VAE, Kouzelis et
al. 2025, arXiv 2502.09509).

.. math:: L_{EQ} = L_{rec}(\tau \circ x, D(\tau \circ E(x)))

with τ a rotation by a multiple of 90° after a resize to a share s of each side, s uniform in
(0.25, 1). L_rec is the objective's own: pixels, LPIPS and GAN, as far as it has them.

The paper puts this *in the place* of the plain reconstruction in half of the steps; here it is
added in every step. Weight 1 is the same mixture, with less noise; the whole loss is twice as
large. One τ for all of a step's samples, micro-batches and processes, so that cutting a batch
changes nothing. Image and latent go through one function, with sizes that match exactly: the
latent's new side is a whole number of positions, the image's that many times the stride. (In the
public code generator and discriminator see different transforms; here they see the same.)
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.losses.pairwise import at_least_float32
from latentsmith.losses.regularizer import (
    LOSSES,
    LatentView,
    Place,
    Regularizer,
    RegularizerConfig,
)

Size = tuple[int, int]


@dataclass(frozen=True)
class Turn:
    """A transform of latents and images alike.

    Attributes:
        size: (h', w') in latent positions, before the rotation.
        quarters: rotations by 90° counter-clockwise.
    """

    size: Size
    quarters: int

    def __call__(self, x: Tensor, stride: int = 1) -> Tensor:
        """[B, C, h s, w s] → [B, C, h' s, w' s], then rotated; s is the ``stride``."""
        return resize(x, (self.size[0] * stride, self.size[1] * stride)).rot90(
            self.quarters, (-2, -1)
        )


def resize(x: Tensor, size: Size) -> Tensor:
    """Antialiased bicubic, not clamped: it is linear, as it must be to act alike on both sides.
    Float32 or wider whatever the autocast."""
    if tuple(x.shape[-2:]) == size:
        return x
    with torch.autocast(x.device.type, enabled=False):
        wide = at_least_float32(x)
        return F.interpolate(wide, size, mode="bicubic", antialias=True, align_corners=False)


class EQVAE(Regularizer):
    """See the module and `EQVAEConfig`."""

    def __init__(self, config: "EQVAEConfig"):
        super().__init__()
        self.config = config

    def forward(self, view: LatentView) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective's reconstruction loss of the transformed pair."""
        loss = view.reconstruction(*self.pictures(view)[0])
        return loss, {"reconstruction": loss.detach()}

    def pictures(self, view: LatentView) -> list[tuple[Tensor, Tensor]]:
        """D(τ z) and τ x: [B, C, H', W'] each."""
        turn = self.draw(view)
        stride = view.images.shape[-1] // view.latent.shape[-1]
        return [(view.decode(turn(view.latent)), turn(view.images, stride))]

    def draw(self, view: LatentView) -> Turn:
        """This step's transform."""
        height, width = view.latent.shape[-2:]
        stride = view.images.shape[-1] // width
        rng = view.step_noise("eqvae")
        shares = torch.rand(2, generator=rng, device=rng.device).cpu().tolist()
        quarters = int(torch.randint(4, (), generator=rng, device=rng.device))
        if not self.config.anisotropic:
            shares[1] = shares[0]
        fewest = -(-view.smallest // stride)  # positions that make the smallest image
        low, high = self.config.scale
        sides = [
            min(max(round(side * (low + (high - low) * share)), fewest, 1), side)
            for side, share in zip((height, width), shares, strict=True)
        ]
        return Turn((sides[0], sides[1]), quarters if self.config.rotate else 0)


@LOSSES.register("eqvae", help="EQ-VAE: a rotated, resized latent decodes to such an image")
@schema
class EQVAEConfig(RegularizerConfig):
    """Equivariance of the decoder under rotation and scaling of the latent (EQ-VAE)."""

    kind: Literal["eqvae"] = "eqvae"
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor beside the plain reconstruction. 1: as much of it as of the plain one, which is the
    paper's mixture (half of the steps each)."""
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the run over which the weight rises linearly from 0. 0: full from the start."""
    final: Annotated[float, Field(ge=0)] = 1.0
    """Weight at the end over `weight`; it changes linearly over the run."""
    scale: tuple[float, float] = (0.25, 1.0)
    """Range of each side's share after the resize, drawn uniformly."""
    anisotropic: bool = False
    """Draw the two sides' shares on their own. False: both the same, as in the public settings."""
    rotate: bool = True
    """Rotate by 0, 90, 180 or 270 degrees."""

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}: it needs 0 < low <= high <= 1")
        if self.scale[0] == 1 and not self.rotate:
            raise ValueError("scale 1 without rotation is no transform at all: lower its low end")

    def regularizer(self, place: Place) -> EQVAE:
        """The term; it needs nothing of its place."""
        return EQVAE(self)
