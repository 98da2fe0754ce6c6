"""Settings of the urepa recipe. Help for each is the string under it."""

from dataclasses import field, replace
from typing import Annotated, Literal

from pydantic import Field

from latentsmith.autoencoders.kl import SCRATCH, KLAutoencoderConfig
from latentsmith.autoencoders.objective import ObjectiveConfig
from latentsmith.backbones.sd_unet import TRAINED_HERE, SDUNetConfig
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.config.schema import schema
from latentsmith.data.transforms import TransformConfig
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.parametrization import Parametrization
from latentsmith.diffusion.paths import PATHS, PathConfig
from latentsmith.encoders.base import ENCODERS, EncoderConfig
from latentsmith.encoders.text.base import TEXT_ENCODERS, TextEncoderConfig
from latentsmith.recipes.base import RECIPES, TrainingRecipe
from latentsmith.registry import OneOf
from latentsmith.sampling.guidance import GUIDANCE, GuidanceConfig
from latentsmith.sampling.samplers import SAMPLERS, SamplerConfig
from latentsmith.stores.texts import TEMPLATE
from latentsmith.training.config import TrainConfig
from latentsmith.utils.needs import Need, hub_weights


@schema
class UNetDiffusionConfig(DiffusionConfig):
    """What the U-Net learns; schedule and objective are its own unless said otherwise."""

    path: Annotated[PathConfig, OneOf(PATHS)] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Noise schedule of the training. Left out: the U-Net's, read from its scheduler config."""
    objective: Parametrization | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """What the loss compares. Left out: what the network says (noise for Stable Diffusion 1.x). Set
    to v, a noise network's output is converted before it is compared."""

    def of(self, network: SDUNet, *, aligned: bool) -> DiffusionConfig:
        """With what is left out taken from the network; without alignment for the control."""
        return replace(
            self,
            path=self.path or network.config.path,
            objective=self.objective or network.predicts,
            alignment=self.alignment if aligned else None,
        )


@schema
class PretrainConfig:
    """Make a small pipeline first, where no published one fits: autoencoder, then U-Net.

    The run's seed does not reach it: like a published one it is given, and runs that differ in
    their seed share it.
    """

    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Objective of the autoencoder."""
    autoencoder: TrainConfig
    """Training of the autoencoder."""
    unet: SDUNetConfig
    """The U-Net: source=scratch, adapt=full, and its shape."""
    diffusion: UNetDiffusionConfig = field(default_factory=UNetDiffusionConfig)
    """What the U-Net learns; apart from the run's `diffusion`, which is of the adaptation. What of
    a latent is stored (`diffusion.latent`) is the run's, and there is no alignment."""
    denoiser: TrainConfig
    """Training of the U-Net."""

    def __post_init__(self) -> None:
        if self.unet.source != SCRATCH:
            raise ValueError(
                f"pretrain.unet.source is {self.unet.source!r}, and pretraining starts from "
                "scratch: set pretrain=null to align that U-Net, or pretrain.unet.source=scratch"
            )


@schema
class CachesConfig:
    """What is computed once, before training."""

    dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16"
    """How teacher tokens are stored; int8 halves them."""
    grid: tuple[int, int] | None = None
    """Average the teacher's tokens over this coarser grid (rows, columns) first. Left out: as they
    are. The network's features are resized to the teacher's grid, never the other way round."""
    batch_size: Annotated[int, Field(gt=0)] = 64
    """Images at once."""


@schema
class EvaluateConfig:
    """How base, control and aligned network are measured, on held-out images."""

    count: Annotated[int, Field(ge=64)] = 2048
    """Held-out images measured, drawn from the split once for all."""
    probe_count: Annotated[int, Field(ge=64)] = 4096
    """Training images that probes and the linear map to the teacher learn from."""
    times: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)] = field(
        default_factory=lambda: [0.05, 0.2, 0.4]
    )
    """Noise levels at which features are taken: 0 none, 1 nothing else."""
    tap: int | str | None = None
    """Block whose features are measured. Left out: the first aligned one."""
    resamples: Annotated[int, Field(ge=0)] = 200
    """Bootstrap draws behind each interval."""
    batch_size: Annotated[int, Field(gt=0)] = 128
    """Images at once."""
    generated: Annotated[int, Field(ge=64)] = 2048
    """Images generated, with the same noise and texts for all."""
    sampler: Annotated[SamplerConfig, OneOf(SAMPLERS)]
    """Sampler of the generated images."""
    guidance: Annotated[GuidanceConfig, OneOf(GUIDANCE)]
    """Guidance of the generated images."""
    clip: str | None = None
    """Hub id or folder of a CLIP model: also measure whether generated images show their texts.
    null: not measured."""
    grid: Annotated[int, Field(ge=2)] = 8
    """Images per row in the report's pictures."""

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        return [] if self.clip is None else [hub_weights(self.clip)]


@RECIPES.register("urepa", help="align a Stable Diffusion U-Net with a vision encoder; prove it")
@schema
class UREPAConfig(TrainingRecipe):
    """Adapt a latent-diffusion U-Net with and without alignment to a teacher's tokens."""

    kind: Literal["urepa"] = "urepa"
    transform: TransformConfig
    """From raw images to what is encoded. Without chance: latents and tokens are cached."""
    autoencoder: KLAutoencoderConfig
    """The pipeline's autoencoder; or scratch, with `pretrain`."""
    teacher: Annotated[EncoderConfig, OneOf(ENCODERS)]
    """Vision encoder whose patch tokens the U-Net's features are aligned with."""
    text_encoder: Annotated[TextEncoderConfig, OneOf(TEXT_ENCODERS)]
    """The pipeline's text encoder (output=sequence)."""
    texts: Literal["classes", "captions"] = "classes"
    """What the U-Net is told of an image: `template` with its class name, or its caption."""
    template: str = TEMPLATE
    """classes: the text, with {} for the class name."""
    pretrain: PretrainConfig | None = None
    """Make a small pipeline first; null: a published one."""
    unet: SDUNetConfig = field(default_factory=SDUNetConfig)
    """The U-Net that is aligned, and what of it trains. source=pretrain: the one `pretrain`
    made."""
    diffusion: UNetDiffusionConfig = field(default_factory=UNetDiffusionConfig)
    """Objective, alignment (`diffusion.alignment`), dropout of texts."""
    train: TrainConfig
    """Training of the aligned network and of the control."""
    control: bool = True
    """Also train the same network without alignment: same start, order, noise, steps. What
    alignment does is the difference to it, not to the untrained."""
    caches: CachesConfig = field(default_factory=CachesConfig)
    """What is computed once."""
    evaluate: EvaluateConfig
    """Measurement protocol."""

    def __post_init__(self) -> None:
        if self.diffusion.alignment is None:
            raise ValueError(
                "diffusion.alignment is null, and alignment is what this recipe does: leave it out"
            )
        if (self.pretrain is None) == (self.unet.source == TRAINED_HERE):
            given = "null" if self.pretrain is None else "given"
            raise ValueError(
                f"unet.source is {self.unet.source!r} and pretrain is {given}: source=pretrain is "
                "the U-Net that the section pretrain makes, and each needs the other"
            )
        if self.unet.source == SCRATCH:
            raise ValueError(
                "unet.source=scratch would align random weights: give a published U-Net, or a "
                "section pretrain and unet.source=pretrain"
            )
        if (self.pretrain is None) == (self.autoencoder.source == SCRATCH):
            raise ValueError(
                f"autoencoder.source is {self.autoencoder.source!r}: pretraining starts from "
                "scratch, and without it the autoencoder must be the published pipeline's"
            )
        if not self.teacher.gives_tokens:
            able = ", ".join(entry.name for entry in ENCODERS if entry.config.gives_tokens)
            raise ValueError(f"teacher={self.teacher.kind} has no patch tokens: choose {able}")
        if getattr(self.text_encoder, "output", None) != "sequence":
            raise ValueError(
                "a U-Net attends to every position of a text: set text_encoder.output=sequence"
            )
        if self.transform.flip or self.transform.crop == "random":
            raise ValueError(
                "latents and teacher tokens are cached, so the transform must be without chance: "
                "set transform.flip=false and transform.crop=center"
            )
        manifold = self.diffusion.alignment.manifold
        if self.train.batch_size < 2 and manifold is not None and manifold.scope != "tokens":
            raise ValueError(
                "train.batch_size is 1, and relations between images need at least 2 (the source's "
                "is 128): raise it, or set diffusion.alignment.manifold.scope=tokens"
            )

    @property
    def has_control(self) -> bool:
        """Whether there is a control to train: not where only the head trains."""
        return self.control and self.unet.adapt != "none"

    @property
    def tap(self) -> int | str:
        """The block whose features are measured."""
        assert self.diffusion.alignment is not None
        tap = self.evaluate.tap
        return self.diffusion.alignment.blocks[0] if tap is None else tap
