"""An image changed as an instruction says."""

from dataclasses import replace
from typing import Any

import torch

from latentsmith.errors import UserError
from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.blocks import Block, pictures
from latentsmith.explore.form import Control, Number, Sample, Text
from latentsmith.explore.generating import draws, edit_guidance_of, sampler_of
from latentsmith.explore.samples import Images
from latentsmith.explore.tab import Tab, image_of
from latentsmith.sampling.edit import edit


class Edit(Tab):
    """Image and instruction → images."""

    title = "Edit"
    help = "What the generator, which was trained on edits, makes of an image and an instruction."
    place = 60
    button = "Edit"

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """A generator that was trained on edits."""
        if arm.generator is None:
            return False
        generator = bench.generator(arm)
        return generator.backbone.edits and generator.info.training.get("edits") is not False

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """Which image, what to change, how far."""
        config, samples = arms[0].run.config, bench.samples
        guidance = edit_guidance_of(config)
        told = samples.instructions if isinstance(samples, Images) else []
        return [
            Sample(name="image", label="Image", count=len(bench.samples)),
            Text(name="instruction", label="Instruction", value="".join(told[:1]), lines=2),
            Number(name="text", label="Text guidance", least=0, most=20, step=0.1,
                   value=guidance.text, help="How far the instruction is exaggerated."),
            Number(name="likeness", label="Image guidance", least=0, most=20, step=0.1,
                   value=guidance.image, help="How much is kept of the image."),
            *draws(config, 4),
        ]  # fmt: skip

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """The image, then what was made of it."""
        if not given["instruction"]:
            raise UserError("Instruction: write what is to be changed")
        image, count, config = image_of(bench, arm, given["image"]), given["count"], arm.run.config
        made = edit(
            bench.generator(arm), image.expand(count, *image.shape), [given["instruction"]],
            sampler=sampler_of(config, given["steps"]),
            guidance=replace(
                edit_guidance_of(config), text=given["text"], image=given["likeness"]
            ),
            seed=given["seed"],
        )  # fmt: skip
        found = [pictures([image], title="Given"), pictures(made, title=given["instruction"])]
        samples, number = bench.samples, given["image"].number
        if isinstance(samples, Images) and samples.instructions and number is not None:
            target = torch.as_tensor(samples.dataset[number]["target"])
            told = samples.instructions[number]
            found.append(
                pictures([bench.transform(arm).build()(target)], title=f"In the data: {told}")
            )
        return found


TAB = Edit()
