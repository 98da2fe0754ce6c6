"""Images like a given one."""

from typing import Any

from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.blocks import Block, pictures
from latentsmith.explore.form import Control, Number, Sample
from latentsmith.explore.generating import draws, guidance_towards, sampler_of, told, words
from latentsmith.explore.tab import Tab, image_of
from latentsmith.sampling.variation import variation


class Variation(Tab):
    """Noised part of the way, and made again (SDEdit)."""

    title = "Variation"
    help = "An image is noised part of the way and made again, as it is or after a prompt."
    place = 70
    button = "Vary"

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """Any with a generator."""
        return arm.generator is not None

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """Of which image, how far from it."""
        config = arms[0].run.config
        return [
            Sample(name="image", label="Image", count=len(bench.samples)),
            *words(bench, arms),
            Number(name="strength", label="Strength", least=0, most=1, step=0.05, value=0.6,
                   help="0: the image itself. 1: nothing of it."),
            *draws(config, 6),
        ]  # fmt: skip

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """The image, then its variations."""
        generator, config = bench.generator(arm), arm.run.config
        image, count = image_of(bench, arm, given["image"]), given["count"]
        prompt = given.get("prompt", "")
        guidance = guidance_towards(prompt, config)
        made = variation(
            generator, image.expand(count, *image.shape), strength=given["strength"],
            sampler=sampler_of(config, given["steps"]), guidance=guidance, seed=given["seed"],
            **told(generator, prompt, "", count),
        )  # fmt: skip
        return [pictures([image], title="Given"), pictures(made, title=prompt or "Variations")]


TAB = Variation()
