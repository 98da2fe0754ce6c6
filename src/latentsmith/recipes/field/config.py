"""Settings of the field recipe. Help for each is the string under it."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from latentsmith.autoencoders.field.decoders import DECODERS, DecoderConfig
from latentsmith.autoencoders.field.flow import FieldFlowConfig
from latentsmith.autoencoders.field.model import FieldAutoencoderConfig
from latentsmith.autoencoders.field.task import Compared
from latentsmith.backbones.base import BACKBONES, BackboneConfig
from latentsmith.config.schema import schema
from latentsmith.data.fields import FieldSamplingConfig
from latentsmith.data.fields.interpolation import INTERPOLATORS
from latentsmith.data.transforms import TransformConfig
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.encoders.base import ENCODERS, EncoderConfig
from latentsmith.recipes.base import RECIPES, TrainingRecipe
from latentsmith.registry import OneOf
from latentsmith.sampling.guidance import GUIDANCE, GuidanceConfig
from latentsmith.sampling.samplers import SAMPLERS, SamplerConfig
from latentsmith.training.config import TrainConfig

Flow = Literal["values", "mamba_flow", "minimal_bottleneck"]
FLOWS: tuple[Flow, ...] = ("values", "mamba_flow", "minimal_bottleneck")


@schema
class LatentFlowConfig:
    """Phase 2 on the code: one draw is one function, at every resolution."""

    backbone: Annotated[BackboneConfig, OneOf(BACKBONES)]
    """The network: sit over tokens, skip_mlp for a single vector."""
    diffusion: DiffusionConfig = dataclasses.field(default_factory=DiffusionConfig)
    """Path, times, objective."""
    train: TrainConfig
    """Length, batch, optimizer."""


@schema
class FieldFlowsConfig:
    """Flows of values at points: phase 2 as the source has it, and its baselines."""

    make: list[Flow] = dataclasses.field(default_factory=lambda: list(FLOWS))
    """Which are trained and measured."""
    values: FieldFlowConfig
    """Phase 2 on values: the frozen encoder's code says what to make (DiffAE)."""
    mamba_flow: FieldFlowConfig
    """Baseline: the same flow straight from the sparse input, no latent."""
    minimal_bottleneck: FieldFlowConfig
    """Baseline: mamba_flow, squeezed token by token in the middle."""
    train: TrainConfig
    """Length, batch, optimizer of each."""

    def __post_init__(self) -> None:
        told = {"values": "code", "mamba_flow": "inputs", "minimal_bottleneck": "inputs"}
        for name, what in told.items():
            if getattr(self, name).told != what:
                raise ValueError(f"flows.{name}.told must be {what}: that is what it is")
        if self.minimal_bottleneck.bottleneck is None:
            raise ValueError(
                "flows.minimal_bottleneck.bottleneck is null: set its channels, below the width"
            )


@schema
class EvaluateConfig:
    """How everything is measured, on held-out images."""

    count: Annotated[int, Field(ge=16)] = 64
    """Held-out images measured, the same for every method."""
    inputs: Annotated[int, Field(ge=4)] = 205
    """Points of the lattice that are given (205 is the source's 20 % of 32 x 32)."""
    resolutions: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)] = (
        dataclasses.field(default_factory=lambda: [32, 64, 96])
    )
    """Sides that are decoded and compared with the truth at that side."""
    supersample: bool = True
    """Pixels coarser than the finest are means of the decoded function over their cell, where the
    decoder is a function (values of one point are compared, too: agreement)."""
    interpolation: list[str] = dataclasses.field(
        default_factory=lambda: ["mean", "nearest", "linear", "cubic", "thin_plate", "kriging"]
    )
    """Methods without learning, in the same table."""
    draws: Annotated[int, Field(ge=2)] = 4
    """Draws of each flow; their mean is measured beside a single one."""
    generated: Annotated[int, Field(ge=16)] = 256
    """Images made from noise by the latent flow."""
    probe_count: Annotated[int, Field(ge=64)] = 4096
    """Training images that latents are measured on, and that probes learn from."""
    paths: Annotated[int, Field(ge=1)] = 16
    """Pairs of held-out images between whose codes is interpolated."""
    resamples: Annotated[int, Field(ge=0)] = 200
    """Bootstrap draws behind each interval."""
    batch_size: Annotated[int, Field(gt=0)] = 16
    """Images at once."""
    sampler: Annotated[SamplerConfig, OneOf(SAMPLERS)]
    """Sampler of every flow."""
    guidance: Annotated[GuidanceConfig, OneOf(GUIDANCE)]
    """none: nothing conditions the latent flow."""
    encoder: Annotated[EncoderConfig, OneOf(ENCODERS)]
    """In whose features generated images are compared with real ones."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.interpolation if name not in INTERPOLATORS]
        if unknown:
            raise ValueError(
                f"evaluate.interpolation has {', '.join(unknown)}: choose of "
                f"{', '.join(INTERPOLATORS)}"
            )


@RECIPES.register("field", help="sparse signals as latents; values at any coordinate; new fields")
@schema
class FieldConfig(TrainingRecipe):
    """Autoencoder of sparse fields, flows in its latents and of its values, and the baselines."""

    kind: Literal["field"] = "field"
    transform: TransformConfig
    """From raw images to the finest truth there is."""
    field: FieldAutoencoderConfig
    """Phase 1: encoder, latent tokens, decoder."""
    sampling: FieldSamplingConfig
    """Which points are given and asked for while training."""
    train: TrainConfig
    """Length, batch, optimizer of phase 1."""
    compared: Compared = "squared"
    """How errors of different images count in phase 1. squared: the mean of squared errors, which
    rough images rule; decibels: the mean of their logarithms, as in PSNR."""
    compare: dict[str, Annotated[DecoderConfig, OneOf(DECODERS)]] = dataclasses.field(
        default_factory=dict
    )
    """Other decoders, name → settings: an autoencoder is trained with each."""
    latent: LatentFlowConfig
    """Phase 2 on the code."""
    flows: FieldFlowsConfig
    """Phase 2 on values, and baselines."""
    cache_batch: Annotated[int, Field(gt=0)] = 64
    """Images at once when codes are cached."""
    evaluate: EvaluateConfig
    """Measurement protocol."""

    def __post_init__(self) -> None:
        shape, transform = self.field, self.transform
        if shape.dims != 2:
            raise ValueError(
                f"field.dims is {shape.dims}, and this recipe's data are images (2): for lines and "
                "volumes use latentsmith.autoencoders.field from Python (docs/howto/sensors.md)"
            )
        if transform.channels != shape.channels:
            raise ValueError(
                f"transform.channels is {transform.channels} and field.channels "
                f"{shape.channels}: set both alike"
            )
        if transform.resolution != shape.resolution:
            raise ValueError(
                f"transform.resolution is {transform.resolution} and field.resolution "
                f"{shape.resolution}: set both to the side of the data"
            )
        if self.sampling.resolution != shape.lattice:
            raise ValueError(
                f"sampling.resolution is {self.sampling.resolution} and field.lattice "
                f"{shape.lattice}: both are the lattice that samples come from"
            )
        beyond = [r for r in self.evaluate.resolutions if r > transform.resolution]
        if beyond:
            raise ValueError(
                f"evaluate.resolutions has {', '.join(map(str, beyond))}, above the data's "
                f"{transform.resolution}: enlarged images are no truth"
            )
        if self.evaluate.inputs >= shape.lattice**2:
            raise ValueError(
                f"evaluate.inputs is {self.evaluate.inputs} of {shape.lattice**2} lattice points: "
                "leave some to be found"
            )
