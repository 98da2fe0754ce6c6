"""Settings of the measure recipe, the work behind ``latentsmith measure``."""

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.config.schema import schema
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.base import ENCODERS, EncoderConfig
from latentsmith.losses.perceptual import Net
from latentsmith.metrics.card import CardConfig
from latentsmith.recipes.base import RECIPES, RecipeConfig, Stage
from latentsmith.registry import OneOf

if TYPE_CHECKING:
    from latentsmith.config.run import Run


@RECIPES.register("measure", help="the latent-space card of any autoencoder; trains nothing")
@schema
class MeasureConfig(RecipeConfig):
    """What is measured, on what, against which reference spaces."""

    kind: Literal["measure"] = "measure"
    autoencoder: KLAutoencoderConfig
    """The autoencoder: hub id or folder in diffusers format."""
    transform: TransformConfig
    """From raw images to what the autoencoder sees."""
    encoder: Annotated[EncoderConfig, OneOf(ENCODERS)]
    """Reference space of the geometry, and feature space of Fréchet distances and paths."""
    more_references: dict[str, Annotated[EncoderConfig, OneOf(ENCODERS)]] = field(
        default_factory=dict
    )
    """Further reference spaces by name."""
    count: Annotated[int, Field(ge=64)] = 2048
    """Held-out images measured, drawn from the split once for all."""
    probe_count: Annotated[int, Field(ge=64)] = 8192
    """Training images the linear probe learns from."""
    card: CardConfig = field(default_factory=CardConfig)
    """Protocol: neighbours, paths, steps, bootstrap."""
    reconstructions: str | None = None
    """A store that `latentsmith cache reconstructions` made with this autoencoder, a folder or URL:
    image errors, Fréchet and kernel distances are then of all its images, not of ``count``."""
    lpips: Net = "vgg"
    """LPIPS trunk, measured when its weights are at hand."""
    lpips_trunk: str | None = None
    """File with the trunk's ImageNet weights (torchvision's state dict)."""

    def stages(self) -> list[Stage]:
        """One: measure and write the card."""
        from latentsmith.recipes.measure.stages import measure

        return [Stage("card", "measure and write the card", lambda run: measure(self, run))]

    def dry_run(self, run: "Run") -> None:
        """Check that images fit the autoencoder; loads the autoencoder, no data."""
        from latentsmith.autoencoders.load import open_autoencoder

        shape = open_autoencoder(self.autoencoder).latent_shape(self.transform.resolution)
        print(f"latents {shape[0]}x{shape[1]}x{shape[2]} of {self.data.kind}")
