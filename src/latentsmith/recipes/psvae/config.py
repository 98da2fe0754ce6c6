"""Settings of the psvae recipe. Help for each is the string under it."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.autoencoders.objective import ObjectiveConfig
from latentsmith.autoencoders.semantic import SemanticAutoencoderConfig
from latentsmith.autoencoders.semantic_task import SemanticObjectiveConfig
from latentsmith.backbones.text_dit import TextDiTConfig
from latentsmith.config.schema import schema
from latentsmith.data.transforms import TransformConfig
from latentsmith.diffusion.edit_task import EditDiffusionConfig
from latentsmith.encoders.text.base import TEXT_ENCODERS, TextEncoderConfig
from latentsmith.losses.base import PairLossConfig
from latentsmith.losses.regularizer import LOSSES, RegularizerConfig
from latentsmith.recipes.base import RECIPES, TrainingRecipe
from latentsmith.registry import OneOf
from latentsmith.sampling.guidance import GUIDANCE, GuidanceConfig
from latentsmith.sampling.samplers import SAMPLERS, SamplerConfig
from latentsmith.training.config import TrainConfig
from latentsmith.utils.needs import Need, hub_weights

Arm = Literal["vae", "rae", "svae", "psvae"]
ARMS: tuple[Arm, ...] = ("vae", "rae", "svae", "psvae")


@schema
class SemanticStageConfig:
    """Training of the autoencoder around the vision encoder."""

    objective: SemanticObjectiveConfig = field(default_factory=SemanticObjectiveConfig)
    """Terms of features, pixels and KL; whether the encoder trains."""
    pairs: Annotated[RegularizerConfig, OneOf(LOSSES)] | None = None
    """MM-Reg on top: a loss over pairs of images, whose latents' distances follow those of the
    frozen encoder's vectors (``svae.pairs=pearson svae.pairs.weight=0.01``). null: none."""
    train: TrainConfig
    """Length, batch, optimizer."""

    def __post_init__(self) -> None:
        if self.pairs is not None and not isinstance(self.pairs, PairLossConfig):
            able = [e.name for e in LOSSES if issubclass(e.config, PairLossConfig)]
            raise ValueError(
                f"pairs={self.pairs.kind} is no loss over pairs of images: choose {', '.join(able)}"
            )


@schema
class VAEStageConfig:
    """The pixel autoencoder that is compared with: no vision encoder at all."""

    autoencoder: KLAutoencoderConfig = field(default_factory=KLAutoencoderConfig)
    """Its shape, from scratch."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Its pixel and KL terms."""
    train: TrainConfig
    """Length, batch, optimizer."""
    patch: Annotated[int, Field(gt=0)] = 2
    """Patch of the transformer on its larger grid, so that it has as many tokens."""


@schema
class EvaluateConfig:
    """How autoencoders and generators are measured, on held-out images."""

    count: Annotated[int, Field(ge=64)] = 2000
    """Held-out images measured, drawn from the split once for all."""
    probe_count: Annotated[int, Field(ge=64)] = 4096
    """Training images that probes learn from, and that latents' scale is measured on."""
    resamples: Annotated[int, Field(ge=0)] = 200
    """Bootstrap draws behind each interval."""
    batch_size: Annotated[int, Field(gt=0)] = 64
    """Images at once."""
    generated: Annotated[int, Field(ge=64)] = 1000
    """Images generated from held-out captions, and edits made of held-out images."""
    sampler: Annotated[SamplerConfig, OneOf(SAMPLERS)]
    """Sampler of generated and edited images."""
    guidance: Annotated[GuidanceConfig, OneOf(GUIDANCE)]
    """Guidance of text-to-image."""
    edit_guidance: Annotated[GuidanceConfig, OneOf(GUIDANCE)]
    """Guidance of editing."""
    bank: Annotated[int, Field(ge=16)] = 8192
    """Real feature tokens that generated ones are compared with (off_manifold)."""
    clip: str | None = None
    """Hub id or folder of a CLIP model: also measure whether generated images show their captions.
    null: not measured."""
    judge: bool = True
    """On captioned shapes: measure whether every attribute is right, by a classifier trained on
    real renders apart from all else."""

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        return [] if self.clip is None else [hub_weights(self.clip)]


@RECIPES.register("psvae", help="latents from a vision encoder; text-to-image and editing in them")
@schema
class PSVAEConfig(TrainingRecipe):
    """S-VAE, PS-VAE, then a diffusion transformer from texts and instructions."""

    kind: Literal["psvae"] = "psvae"
    transform: TransformConfig
    """From raw images to what is encoded. Without chance: latents are cached."""
    autoencoder: SemanticAutoencoderConfig
    """Vision encoder, projector, latent channels, pixel decoder."""
    standardize: bool = True
    """Measure mean and deviation of the encoder's feature channels first, and compare features in
    those units: then an error of 1 is the same for every encoder."""
    svae: SemanticStageConfig
    """Stage 1: the encoder frozen; features come back from a compact latent."""
    pixel: SemanticStageConfig
    """Stage 2: the encoder trains too; features and pixels come back from the latent."""
    compare: list[Arm] = field(default_factory=list)
    """Also make, train a generator on and measure: svae (of stage 1), rae (the features themselves,
    no projector, no KL), vae (a pixel autoencoder)."""
    vae: VAEStageConfig
    """What compare=[vae] makes."""
    text_encoder: Annotated[TextEncoderConfig, OneOf(TEXT_ENCODERS)]
    """Frozen encoder of captions and instructions (output=sequence)."""
    backbone: TextDiTConfig = field(default_factory=TextDiTConfig)
    """Stage 3: the diffusion transformer. Width and length of texts are the encoder's."""
    diffusion: EditDiffusionConfig = field(default_factory=EditDiffusionConfig)
    """Path, objective, dropout of texts and sources; share of edits, where data have such."""
    train: TrainConfig
    """Training of the transformer."""
    cache_batch: Annotated[int, Field(gt=0)] = 64
    """Images or texts at once when latents and embeddings are cached."""
    evaluate: EvaluateConfig
    """Measurement protocol."""

    def __post_init__(self) -> None:
        if self.transform.flip or self.transform.crop == "random":
            raise ValueError(
                "latents are cached, and captions may speak of left and right, so the transform "
                "must be without chance: set transform.flip=false and transform.crop=center"
            )
        if getattr(self.text_encoder, "output", None) != "sequence":
            raise ValueError(
                "the transformer attends to every position of a text: set "
                "text_encoder.output=sequence"
            )
        if self.svae.objective.encoder_lr > 0:
            raise ValueError(
                f"svae.objective.encoder_lr is {self.svae.objective.encoder_lr}, and S-VAE keeps "
                "the encoder frozen: set it to 0 (pixel.objective.encoder_lr is PS-VAE's)"
            )
        if self.autoencoder.channels != self.transform.channels:
            raise ValueError(
                f"transform.channels is {self.transform.channels} and autoencoder.channels "
                f"{self.autoencoder.channels}: set both alike"
            )

    @property
    def arms(self) -> list[Arm]:
        """The latent spaces that are made and measured, PS-VAE the last."""
        return [arm for arm in ARMS if arm == "psvae" or arm in self.compare]
