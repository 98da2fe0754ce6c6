"""A painted part of an image made anew."""

from typing import Any

from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.blocks import Block, pictures
from latentsmith.explore.form import Control, Mask, Number, Sample
from latentsmith.explore.generating import draws, guidance_towards, sampler_of, told, words
from latentsmith.explore.pictures import mask_of
from latentsmith.explore.tab import Tab, image_of
from latentsmith.sampling.inpaint import inpaint


class Inpaint(Tab):
    """RePaint, with any generator."""

    title = "Inpaint"
    help = "Paint over what is to be made anew; the rest of the image stays as it is."
    place = 80
    button = "Inpaint"

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """Any with a generator."""
        return arm.generator is not None

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """Image, mask, what is to be there."""
        config = arms[0].run.config
        return [
            Sample(name="image", label="Image", count=len(bench.samples)),
            Mask(name="mask", label="Make anew", over="image", help="Paint with the mouse."),
            *words(bench, arms),
            Number(name="rounds", label="Rounds", least=1, most=10, value=1,
                   help="More fit the new part better to the old."),
            *draws(config, 6),
        ]  # fmt: skip

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """The image, then the results."""
        generator, config = bench.generator(arm), arm.run.config
        image, count = image_of(bench, arm, given["image"]), given["count"]
        prompt = given.get("prompt", "")
        guidance = guidance_towards(prompt, config)
        made = inpaint(
            generator, image.expand(count, *image.shape), mask_of(given["mask"], image.shape[-1]),
            rounds=given["rounds"], sampler=sampler_of(config, given["steps"]),
            guidance=guidance, seed=given["seed"], **told(generator, prompt, "", count),
        )  # fmt: skip
        return [pictures([image], title="Given"), pictures(made, title=prompt or "Made anew")]


TAB = Inpaint()
