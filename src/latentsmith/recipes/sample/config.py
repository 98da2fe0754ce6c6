"""Settings of the sample recipe, the work behind ``latentsmith sample``."""

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, DatasetConfig
from latentsmith.recipes.base import RECIPES, RecipeConfig, Stage
from latentsmith.registry import OneOf
from latentsmith.sampling.guidance import GUIDANCE, GuidanceConfig
from latentsmith.sampling.guidance.none import NoGuidanceConfig
from latentsmith.sampling.samplers import SAMPLERS, SamplerConfig
from latentsmith.sampling.samplers.heun import HeunConfig

if TYPE_CHECKING:
    from latentsmith.config.run import Run


@RECIPES.register("sample", help="images from a trained generator: a grid and files")
@schema
class SampleConfig(RecipeConfig):
    """Which generator, how it is sampled, and how many images."""

    kind: Literal["sample"] = "sample"
    data: Annotated[DatasetConfig, OneOf(DATASETS)] | None = None  # type: ignore[assignment]
    """Not used: a generator needs no data."""
    generator: Path
    """Folder of a saved generator (``latentsmith sample RUN`` finds a run's)."""
    autoencoder: Path | None = None
    """Folder its autoencoder is in now; left out: the one it names. Another one is refused."""
    weak: Path | None = None
    """Folder of a weaker generator of the same latents, for guidance=autoguidance."""
    sampler: Annotated[SamplerConfig, OneOf(SAMPLERS)] = field(default_factory=HeunConfig)
    """From noise to latents."""
    guidance: Annotated[GuidanceConfig, OneOf(GUIDANCE)] = field(default_factory=NoGuidanceConfig)
    """How far the condition is exaggerated."""
    count: Annotated[int, Field(ge=1)] = 64
    """Number of images, of all prompts or classes together."""
    first: Annotated[int, Field(ge=0)] = 0
    """Number of the first image: 64 … 127 of one seed go on where 0 … 63 ended."""
    labels: list[str | int] = field(default_factory=list)
    """Classes, by name or number, taken in turn; left out: all classes in turn."""
    prompts: list[str] = field(default_factory=list)
    """What images are to show, taken in turn: image number i shows prompt i mod their number."""
    latents: bool = False
    """Also write the raw latents, ``latents.safetensors``: "latents" [count, C, h, w]."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Images at once; it does not change them."""

    def __post_init__(self) -> None:
        if self.prompts and self.labels:
            raise ValueError("prompts and labels are both given: say what to show in one way")

    def stages(self) -> list[Stage]:
        """One: sample and write."""
        from latentsmith.recipes.sample.stages import sample

        return [Stage("samples", "generate images", lambda run: sample(self, run))]

    def dry_run(self, run: "Run") -> None:
        """Load the generator with its autoencoder; samples nothing."""
        from latentsmith.recipes.sample.stages import load, wanted_of

        wanted_of(self, load(self))
        print(f"{self.count} images by {self.sampler.kind}, guidance {self.guidance.kind}")
