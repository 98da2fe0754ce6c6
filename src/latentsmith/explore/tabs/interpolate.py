"""The way between two images through the latents."""

from typing import Any

from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.between import walk
from latentsmith.explore.blocks import Block, facts, strip
from latentsmith.explore.form import Choice, Control, Number, Sample
from latentsmith.explore.tab import Tab, has_images, image_of, own_reference, references_of


class Interpolate(Tab):
    """A strip of decoded images over the curve of their change."""

    title = "Interpolate"
    help = (
        "Two images and what is decoded between their latents. The curve is the speed of change "
        "in a reference space: a flat one is a smooth latent space, a peak is a jump."
    )
    place = 30
    live = True
    stacked = True

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """Any autoencoder of images."""
        return has_images(bench, arm)

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """Between what, how."""
        references, total = references_of(bench, arms), len(bench.samples)
        return [
            Sample(name="start", label="From", count=total, value=0),
            Sample(name="end", label="To", count=total, value=1),
            Choice(
                name="path", label="Path", options=["lerp", "slerp"], value="lerp",
                help="Straight, or along the sphere.",
            ),
            Number(name="steps", label="Images", least=3, most=25, value=9),
            Choice(name="reference", label="Change measured in", options=references,
                   value=references[0]),
        ]  # fmt: skip

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """The strip with its curve, and the path's length and evenness."""
        name = own_reference(bench, arm, given["reference"])
        ends = [image_of(bench, arm, given[side])[None] for side in ("start", "end")]
        start, end = (bench.encode(arm, image)[0] for image in ends)
        found = walk(
            lambda z: bench.decode(arm, z), start, end, lambda x: bench.locate(arm, name, x),
            kind=given["path"], steps=given["steps"],
        )  # fmt: skip
        told = {"path length": f"{found.length:.3g}", "unevenness": f"{found.unevenness:.2f}"}
        axis = f"speed of change in {name}"
        return [strip(found.images, found.speeds.tolist(), axis=axis), facts(told)]


TAB = Interpolate()
