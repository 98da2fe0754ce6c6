"""Settings of the segmentation recipe."""

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.base import ENCODERS, EncoderConfig
from latentsmith.metrics.segmentation_card import SegmentationConfig
from latentsmith.recipes.base import RECIPES, RecipeConfig, Stage
from latentsmith.registry import OneOf

if TYPE_CHECKING:
    from latentsmith.config.run import Run


@RECIPES.register("segmentation", help="what an encoder's tokens tell a linear probe of pixels")
@schema
class SegmentationRecipeConfig(RecipeConfig):
    """Which encoder is measured, on which images."""

    kind: Literal["segmentation"] = "segmentation"
    encoder: Annotated[EncoderConfig, OneOf(ENCODERS)]
    """Any with tokens."""
    transform: TransformConfig
    """From raw images to what the encoder sees; labels of pixels keep their resolution."""
    train_count: Annotated[int, Field(ge=10)] = 1024
    """Training images the probe is fitted on, drawn from the split once for all."""
    count: Annotated[int, Field(ge=2)] = 512
    """Held-out images measured, drawn alike."""
    probe: SegmentationConfig = field(default_factory=SegmentationConfig)
    """Protocol: pixels, bootstrap."""

    def __post_init__(self) -> None:
        if not self.encoder.gives_tokens:
            names = [entry.name for entry in ENCODERS if entry.config.gives_tokens]
            raise ValueError(
                f"encoder {self.encoder.kind} has no tokens, so it says nothing of single pixels: "
                f"use one of {', '.join(names)}"
            )

    def stages(self) -> list[Stage]:
        """One: fit, measure and write the card."""
        from latentsmith.recipes.segmentation.stages import measure

        return [
            Stage("card", "fit the probe, measure, write the card", lambda run: measure(self, run))
        ]

    def dry_run(self, run: "Run") -> None:
        """Print the token grid; loads the encoder, no data."""
        rows, columns = self.encoder.build().grid or (0, 0)
        print(f"{rows} x {columns} tokens of an image of {self.data.kind}")
