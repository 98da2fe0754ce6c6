"""Settings of the cache recipe, the work behind ``latentsmith cache``."""

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from latentsmith.autoencoders.kl import SCRATCH, KLAutoencoderConfig
from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, DatasetConfig
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.base import ENCODERS, EncoderConfig
from latentsmith.encoders.text.base import TEXT_ENCODERS, TextEncoderConfig
from latentsmith.encoders.text.minilm import MiniLMConfig
from latentsmith.losses.perceptual import Net
from latentsmith.recipes.base import RECIPES, RecipeConfig, Stage
from latentsmith.registry import OneOf
from latentsmith.stores.base import Content, Stored
from latentsmith.utils.on_ray import RayConfig

if TYPE_CHECKING:
    from latentsmith.config.run import Run
    from latentsmith.stores.base import FeatureStore


@schema
class LatentsConfig:
    """What is kept of a latent distribution."""

    keep: Literal["moments", "mode", "sample"] = "moments"
    """moments: mean and log-variance, so that training draws anew every time; mode: the mean
    alone; sample: one draw, fixed for good."""
    flip: bool = False
    """Also the latents of the mirrored image (encoded again: they are not the mirrored latents)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the encoder computes in."""


@schema
class TokensConfig:
    """What is kept of an encoder's tokens."""

    unit: bool = True
    """Every token divided by its length."""
    grid: tuple[int, int] | None = None
    """Average over a coarser grid of so many rows and columns; left out: all tokens."""

    def __post_init__(self) -> None:
        if self.grid is not None and min(self.grid) < 1:
            raise ValueError(f"grid is {self.grid}: rows and columns must be at least 1")


@schema
class VectorsConfig:
    """What is kept of an encoder's vectors."""

    unit: bool = False
    """Every vector divided by its length."""


@schema
class TextConfig:
    """Which texts are encoded."""

    texts: Path | None = None
    """A file with one text a line, instead of a dataset's texts."""
    template: str | None = None
    """Texts made of the dataset's class names, put in the place of {}: 'a photo of a {}'. Left
    out: its captions."""


@schema
class ReconstructionsConfig:
    """What is kept of reconstructions, beside PSNR, SSIM and the encoder's vectors."""

    lpips: Net | None = None
    """Also LPIPS with this trunk."""
    lpips_trunk: str | None = None
    """File with the trunk's ImageNet weights (torchvision's state dict)."""


@RECIPES.register("cache", help="a store of latents, tokens, vectors or text embeddings")
@schema
class CacheConfig(RecipeConfig):
    """What is computed, of what, by which model."""

    kind: Literal["cache"] = "cache"
    what: Content = "latents"
    """latents of the autoencoder, tokens or vectors of the encoder, text embeddings, or errors and
    vectors of the autoencoder's reconstructions."""
    data: Annotated[DatasetConfig, OneOf(DATASETS)] | None = None  # type: ignore[assignment]
    """Images or captions; needless when text.texts gives a file."""
    split: Literal["train", "val"] = "train"
    """Which part of the data."""
    transform: TransformConfig
    """From raw images to what the model sees; without chance."""
    autoencoder: KLAutoencoderConfig = field(default_factory=KLAutoencoderConfig)
    """For latents and reconstructions: hub id or folder in diffusers format."""
    encoder: Annotated[EncoderConfig, OneOf(ENCODERS)] | None = None
    """For tokens and vectors; for reconstructions the space in which they are compared."""
    text_encoder: Annotated[TextEncoderConfig, OneOf(TEXT_ENCODERS)] = field(
        default_factory=MiniLMConfig
    )
    """For text."""
    latents: LatentsConfig = field(default_factory=LatentsConfig)
    """Of latents."""
    tokens: TokensConfig = field(default_factory=TokensConfig)
    """Of tokens."""
    vectors: VectorsConfig = field(default_factory=VectorsConfig)
    """Of vectors."""
    reconstructions: ReconstructionsConfig = field(default_factory=ReconstructionsConfig)
    """Of reconstructions."""
    text: TextConfig = field(default_factory=TextConfig)
    """Of text."""
    dtype: Stored | None = None
    """How numbers are stored; left out: float16, for vectors float32. int8 (tokens and vectors):
    one byte a number, scaled per channel."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Samples per forward pass."""
    engine: Literal["here", "ray"] = "here"
    """Who computes: this process (or those that torchrun started), or tasks on a Ray cluster that
    share the store's disk."""
    ray: RayConfig = field(default_factory=RayConfig)
    """With engine=ray."""
    unreadable: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of unreadable samples to put up with (at least 16 are); each is listed in the store."""

    def __post_init__(self) -> None:
        if self.data is None and (self.what != "text" or self.text.texts is None):
            raise ValueError("no data: choose a dataset, data=image_folder data.folder=PHOTOS")
        if self.what in ("latents", "reconstructions") and self.autoencoder.source == SCRATCH:
            raise ValueError("no autoencoder: give autoencoder.source a hub id or folder")
        if self.what in ("tokens", "vectors") and self.encoder is None:
            raise ValueError(f"no encoder to take {self.what} of: choose one, encoder=dinov2")
        if self.what == "reconstructions" and self.encoder is None:
            raise ValueError("no space to compare images in: choose one, encoder=inception")
        if self.what == "reconstructions" and self.dtype not in (None, "float32"):
            raise ValueError(f"reconstructions are kept as float32, not as {self.dtype}")
        if self.what == "text" and self.text.texts is not None and self.text.template is not None:
            raise ValueError("text.texts and text.template are both set: give one of them")
        if self.dtype == "int64" or (self.dtype == "int8" and self.what in ("latents", "text")):
            raise ValueError(f"{self.what} cannot be stored as {self.dtype}: use float16")
        if not (self.transform.crop != "random" and not self.transform.flip):
            raise ValueError(
                "the transform draws another crop or flip every time: set transform.crop=center "
                "and transform.flip=false (latents.flip=true keeps both ways)"
            )

    def stages(self) -> list[Stage]:
        """One: make the store."""
        from latentsmith.recipes.cache.stages import cache

        return [Stage("store", "compute what is missing", lambda run: cache(self, run))]

    def make(self, out: Path | None = None) -> "FeatureStore":
        """Make the store at ``out`` (default: in the cache, by its digest), or see that it is
        there. Raises UserError, see `latentsmith.recipes.cache.stages.make`."""
        from latentsmith.recipes.cache.stages import make

        return make(self, out)

    def dry_run(self, run: "Run") -> None:
        """Build the model and list the data; computes nothing."""
        from latentsmith.recipes.cache.stages import contents_of
        from latentsmith.stores.describe import describe
        from latentsmith.training.team import Team

        contents = contents_of(self, Team.join(several_objectives=False))
        print(describe(contents.manifest))
        print(f"store {contents.default_path()}")
