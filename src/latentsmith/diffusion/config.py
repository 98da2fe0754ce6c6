"""Settings of training a denoiser, apart from network and optimizer."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from latentsmith.autoencoders.normalizer import Latent
from latentsmith.config.schema import schema
from latentsmith.diffusion.align import AlignmentConfig
from latentsmith.diffusion.flow import LinearPathConfig
from latentsmith.diffusion.parametrization import Parametrization
from latentsmith.diffusion.paths import PATHS, PathConfig
from latentsmith.diffusion.times import TimeConfig
from latentsmith.registry import OneOf

Weighting = Literal["none", "min_snr"]


@schema
class DiffusionConfig:
    """What a denoiser learns, and from what."""

    path: Annotated[PathConfig, OneOf(PATHS)] = field(default_factory=LinearPathConfig)
    """From data to noise: linear, gvp, or vp (a DDPM schedule)."""
    times: TimeConfig = field(default_factory=TimeConfig)
    """Which times the training sees."""
    objective: Parametrization = "velocity"
    """What the loss compares. The network's output (`backbone.predicts`) is converted to it: the
    same network may be trained on another objective than it speaks."""
    weighting: Weighting = "none"
    """Weight of a time in the loss: none (1 in the objective's own space), or min_snr (Hang et al.
    2023), which is min(SNR, gamma) on the error of the data in whatever space is compared."""
    gamma: Annotated[float, Field(gt=0)] = 5.0
    """min_snr: the SNR above which the error of the data counts no more."""
    label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of samples trained without their condition, for guidance. Unconditional networks have
    none to drop."""
    latent: Latent = "sample"
    """What of a stored posterior is trained on: a fresh sample each time, or its mode."""
    flip: bool = True
    """Where the store holds flipped copies, draw each sample's half of the time."""
    variance_weight: Annotated[float, Field(ge=0)] = 0.001
    """Networks that learn a variance (DiT): factor of the variational bound beside the loss (Nichol
    & Dhariwal 2021: 0.001). Other networks have none."""
    alignment: AlignmentConfig | None = None
    """Align hidden tokens with a teacher's (REPA, U-REPA); the batches must hold it. null: off."""
    bins: Annotated[int, Field(ge=1)] = 4
    """Validation scores each sample at this many times, one in each equal share of the training's
    times, and reports each share's loss."""
