"""Settings of the edit recipe, the work behind ``latentsmith edit``, ``variation``, ``inpaint``."""

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

Task = Literal["edit", "variation", "inpaint"]
Crop = Literal["center", "none"]


@RECIPES.register("edit", help="given images changed by a trained generator")
@schema
class EditConfig(RecipeConfig):
    """Which images, which generator, and what it does with them."""

    kind: Literal["edit"] = "edit"
    data: Annotated[DatasetConfig, OneOf(DATASETS)] | None = None  # type: ignore[assignment]
    """Not used: images are given as files."""
    task: Task = "variation"
    """edit: as an instruction says, by a generator trained on edits; variation: noised to
    ``strength`` and made again (SDEdit); inpaint: a masked part made anew (RePaint)."""
    generator: Path
    """Folder of a saved generator (the verbs' RUN finds a run's)."""
    autoencoder: Path | None = None
    """Folder its autoencoder is in now; left out: the one it names. Another one is refused."""
    images: list[Path]
    """Image files, and folders of them, of any size."""
    crop: Crop = "center"
    """From an image to the generator's square: center cuts the largest one out, none squeezes the
    whole image into it. A run's generator takes its run's."""
    prompts: list[str] = field(default_factory=list)
    """What results are to show; of task=edit the instructions. Each is tried on each image."""
    labels: list[str | int] = field(default_factory=list)
    """Classes instead, by name or number; each is tried on each image. Without prompts and labels
    nothing is said of what variation and inpaint are to show."""
    strength: Annotated[float, Field(ge=0, le=1)] = 0.6
    """task=variation: time the image is noised to. 0: the image itself; 1: nothing of it."""
    mask: Path | None = None
    """task=inpaint: image file, white where all images are made anew; of their shape, in any
    size."""
    rounds: Annotated[int, Field(ge=1)] = 1
    """task=inpaint: rounds after the first noise the result to ``back_to`` and come down again, so
    that the new part fits the known one better."""
    back_to: Annotated[float, Field(gt=0, le=1)] = 0.5
    """task=inpaint: time that later rounds start at."""
    paste: bool = True
    """task=inpaint: put the pixels outside the mask back; false: they are the decoder's."""
    sampler: Annotated[SamplerConfig, OneOf(SAMPLERS)] = field(default_factory=HeunConfig)
    """From noise to latents."""
    guidance: Annotated[GuidanceConfig, OneOf(GUIDANCE)] = field(default_factory=NoGuidanceConfig)
    """How far instruction, prompt or class are exaggerated."""
    count: Annotated[int, Field(ge=1)] = 1
    """Results for each image and prompt; number i starts from the same noise for all of them."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Results at once; it does not change them."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("no images: give --image FILE or FOLDER")
        if self.prompts and self.labels:
            raise ValueError("prompts and labels are both given: say what to show in one way")
        if self.task == "edit" and not self.prompts:
            raise ValueError("no instruction: give --instruction TEXT or --instructions FILE")
        if self.task == "inpaint" and self.mask is None:
            raise ValueError("no mask: give --mask FILE, white where the image is made anew")
        if self.task != "inpaint" and self.mask is not None:
            raise ValueError(f"mask={self.mask}: task={self.task} takes none, use task=inpaint")

    def stages(self) -> list[Stage]:
        """One: change and write."""
        from latentsmith.recipes.edit.stages import change

        return [Stage("edits", "change the images", lambda run: change(self, run))]

    def dry_run(self, run: "Run") -> None:
        """Load the generator and read the images; changes nothing."""
        from latentsmith.recipes.edit.stages import Job

        job = Job.of(self)
        print(f"{self.task}: {job.count} results of {len(job.sources)} images")
