"""Settings of the interpolate recipe, the work behind ``latentsmith interpolate``."""

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from latentsmith.autoencoders.kl import SCRATCH, KLAutoencoderConfig
from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, DatasetConfig
from latentsmith.data.transforms import TransformConfig
from latentsmith.recipes.base import RECIPES, RecipeConfig, Stage
from latentsmith.registry import OneOf
from latentsmith.sampling.guidance import GUIDANCE, GuidanceConfig
from latentsmith.sampling.guidance.none import NoGuidanceConfig
from latentsmith.sampling.samplers import SAMPLERS, SamplerConfig
from latentsmith.sampling.samplers.heun import HeunConfig

if TYPE_CHECKING:
    from latentsmith.config.run import Run


@RECIPES.register(
    "interpolate", help="paths between images, or between a generator's noises or prompts"
)
@schema
class InterpolateConfig(RecipeConfig):
    """Between what, along which path."""

    kind: Literal["interpolate"] = "interpolate"
    data: Annotated[DatasetConfig, OneOf(DATASETS)] | None = None  # type: ignore[assignment]
    """Held-out images to walk between; needless with ``images`` or a generator."""
    transform: TransformConfig = field(default_factory=lambda: TransformConfig(resolution=256))
    """From raw images to what the autoencoder sees (a run's own, or 256 pixels square)."""
    images: list[Path] = field(default_factory=list)
    """Image files to walk between, the first to the second, the third to the fourth …"""
    autoencoder: KLAutoencoderConfig = field(default_factory=KLAutoencoderConfig)
    """Encodes the images and decodes the path. With a generator: the folder its own autoencoder is
    in now; left out: the one it names."""
    generator: Path | None = None
    """Folder of a saved generator: walk between its starting noises, or prompts, and not images."""
    sampler: Annotated[SamplerConfig, OneOf(SAMPLERS)] = field(default_factory=HeunConfig)
    """Of the generator: from noise to latents."""
    guidance: Annotated[GuidanceConfig, OneOf(GUIDANCE)] = field(default_factory=NoGuidanceConfig)
    """Of the generator."""
    labels: list[str | int] = field(default_factory=list)
    """Of the generator: the class of each path, in turn; left out: all in turn."""
    prompts: list[str] = field(default_factory=list)
    """Of a generator that reads texts. One: what all paths between noises show. An even number:
    walk from the first to the second, from the third to the fourth … instead, each path from one
    noise, so that nothing but the text changes."""
    path: Literal["lerp", "slerp"] | None = None
    """Straight (lerp) or along the sphere (slerp); left out: lerp between images, slerp between
    noises, which lie near a sphere. Between prompts always straight."""
    pairs: Annotated[int, Field(ge=1)] = 4
    """Paths, one a row of the grid; of image files or prompts as many as there are pairs."""
    steps: Annotated[int, Field(ge=2)] = 9
    """Images per path, both ends included."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Images at once; it does not change them."""

    def __post_init__(self) -> None:
        if self.generator is not None:
            self._check_told()
            return
        if self.prompts or self.labels:
            raise ValueError(
                f"{'prompts' if self.prompts else 'labels'} are for a generator to show, and there "
                "is only an autoencoder: give generator=FOLDER"
            )
        if self.autoencoder.source == SCRATCH:
            raise ValueError("no autoencoder: give autoencoder.source a hub id or folder")
        if len(self.images) % 2:
            raise ValueError(f"{len(self.images)} images make no pairs: give an even number")
        if not self.images and self.data is None:
            raise ValueError("nothing to walk between: choose data=…, images=[…] or generator=…")

    def _check_told(self) -> None:
        """What the generator is to do."""
        if self.images:
            raise ValueError("images and generator are both set: walk between one or the other")
        if self.prompts and self.labels:
            raise ValueError("prompts and labels are both given: say what to show in one way")
        if len(self.prompts) > 1 and len(self.prompts) % 2:
            raise ValueError(
                f"{len(self.prompts)} prompts make no pairs: give an even number (paths from the "
                "first to the second, the third to the fourth …), or one (paths between noises "
                "that show it)"
            )
        if len(self.prompts) > 1 and self.path == "slerp":
            raise ValueError(
                "path=slerp is for latents and noises: paths between prompts are straight, leave "
                "path out"
            )

    def stages(self) -> list[Stage]:
        """One: walk and write."""
        from latentsmith.recipes.interpolate.stages import interpolate

        return [Stage("paths", "decode the paths", lambda run: interpolate(self, run))]

    def dry_run(self, run: "Run") -> None:
        """Build the model, read images and prompts; makes no path."""
        from latentsmith.recipes.interpolate.stages import walk_of

        print(f"{len(walk_of(self).ends)} paths of {self.steps} images")
