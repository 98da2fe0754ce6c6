"""An image through the autoencoder and back."""

from typing import Any

from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.blocks import Block, facts, pictures
from latentsmith.explore.form import Control, Sample
from latentsmith.explore.pictures import difference
from latentsmith.explore.tab import Tab, image_of
from latentsmith.metrics.reconstruction import psnr
from latentsmith.metrics.ssim import WINDOW, ssim


class Reconstruct(Tab):
    """What goes in, what comes out, what is lost."""

    title = "Reconstruct"
    help = "An image of yours, or of the held-out ones, encoded and decoded again."
    place = 40
    live = True

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """Any autoencoder of images."""
        return arm.kind == "images"

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """Which image."""
        return [Sample(name="image", label="Image", count=len(bench.samples))]

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """Three pictures and two numbers."""
        image = image_of(bench, arm, given["image"])
        latent = bench.encode(arm, image[None])
        back = bench.decode(arm, latent)
        numbers = {"PSNR": f"{psnr(image[None], back):.1f} dB"}
        if min(image.shape[1:]) >= WINDOW:
            numbers["SSIM"] = f"{ssim(image[None], back):.3f}"
        numbers["latent"] = " x ".join(map(str, latent.shape[1:]))
        shown = [image, back[0], difference(image, back[0])]
        return [pictures(shown, ["in", "out", "difference x 4"], size=144), facts(numbers)]


TAB = Reconstruct()
