"""What a regularized arm adds to an autoencoder's reconstruction objective.

    loss = reconstruction + Σ_k w_k(t) · R_k(view)

Losses over pairs of samples (`latentsmith.losses.base`) are one sort of R; others look at the
image, decode (EQ-VAE), or train a projection of their own (VA-VAE). Each is one file: a config
that says which references it reads, and a `Regularizer` that turns a `LatentView` into a scalar.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from latentsmith.config.schema import schema
from latentsmith.registry import Registry

LOSSES = Registry("loss", "latentsmith.losses")


@dataclass(frozen=True)
class Place:
    """Where a regularizer is put to work: what must be known to build it.

    Attributes:
        latent_channels: C of the latents.
        terms: reference name → weight in losses over pairs.
        token_widths: reference name → D of its patch tokens, for the names its config asked for.
        seed: of initial weights.
    """

    latent_channels: int
    terms: Mapping[str, float]
    token_widths: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class LatentBatch:
    """Latents and where their images lie in the reference spaces: all that a loss of the whole
    batch may look at.

    Attributes:
        latent: [B, C, h, w], the posterior's mean or a draw, as the objective says.
        vectors: reference name → [B, D].
    """

    latent: Tensor
    vectors: Mapping[str, Tensor]


@dataclass(frozen=True)
class LatentView(LatentBatch):
    """One micro-batch on its way through the autoencoder.

    Attributes:
        images: [B, C, H, W] in [0, 1].
        decode: latents [B, C, h', w'] → images [B, C, h' H/h, w' W/w], for any h', w'.
        reconstruction: (decoded, images) → the objective's weighted loss of a reconstruction
            (pixels, LPIPS, GAN), a scalar.
        objective: that loss of this micro-batch itself, pixels and LPIPS only.
        step_noise: name → generator that is the same for every micro-batch and process of one
            optimiser step, so that a batch may be cut in any way.
        tokens: reference name → patch tokens [B, N, D] in raster order.
        index: number of each sample in its dataset, for messages.
        last_weight: weight of the encoder's last layer, None where it is not trained.
        smallest: side in pixels below which ``reconstruction`` cannot judge an image.
    """

    images: Tensor
    decode: Callable[[Tensor], Tensor]
    reconstruction: Callable[[Tensor, Tensor], Tensor]
    objective: Tensor
    step_noise: Callable[[str], torch.Generator]
    tokens: Mapping[str, Tensor] = field(default_factory=dict)
    index: Tensor | None = None
    last_weight: Tensor | None = None
    smallest: int = 1


class Regularizer(nn.Module):
    """A term beside the reconstruction objective.

    Calling it: `LatentView` → (scalar before its weight, name → detached part for the log).
    Parameters of its own are trained with the autoencoder's and saved in checkpoints, but not
    exported.

    Attributes:
        joint: True when it is no mean over samples, but a loss of the whole batch. It then gets
            plain `LatentBatch`es, and the trainer uses a gradient cache for micro-batches.
    """

    joint: bool = False

    def forward(self, view: LatentView) -> tuple[Tensor, dict[str, Tensor]]:
        """See the class."""
        raise TypeError(f"{type(self).__name__} computes nothing: add forward()")

    def pictures(self, view: LatentView) -> list[tuple[Tensor, Tensor]]:
        """(decoded, images) that `forward` judges besides the reconstruction: a discriminator
        must learn from them too."""
        return []


@schema
class RegularizerConfig:
    """Base of all regularizers' configs. Subclasses add ``kind: Literal[...]`` and `regularizer`.

    A subclass that declares ``weight``, ``ramp`` or ``final`` anew keeps its own default where a
    preset has tuned that of another kind.
    """

    reads_vectors: ClassVar[bool] = False
    """Whether it looks at the references' vectors."""

    kind: str
    weight: Annotated[float, Field(ge=0)] = 0.3
    """Factor of this loss in the training objective."""
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the run over which the weight rises linearly from 0. 0: full from the start."""
    final: Annotated[float, Field(ge=0)] = 1.0
    """Weight at the end over `weight`; it changes linearly over the run. Below 1: the geometry is
    learnt early, and reconstruction recovers while a weaker pull holds it."""

    def weight_at(self, progress: float) -> float:
        """The weight when the fraction ``progress`` of the run is done."""
        risen = 1.0 if self.ramp == 0 else min(progress / self.ramp, 1.0)
        return self.weight * risen * (1 + (self.final - 1) * progress)

    def teachers(self) -> list[str]:
        """Names of the references whose patch tokens it reads."""
        return []

    def regularizer(self, place: Place) -> Regularizer:
        """The term as a module.

        Raises:
            UserError: it cannot work there.
        """
        raise TypeError(f"{type(self).__name__} has no regularizer()")
