"""Images from a prompt or a class."""

from typing import Any

from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.blocks import Block, pictures
from latentsmith.explore.form import Choice, Control, Number, Text
from latentsmith.explore.generating import ANY_CLASS, draws, generate, reads_texts, scale_of
from latentsmith.explore.tab import Tab

EXAMPLES = 2
"""Captions of held-out images that are prompts at first."""


class Generate(Tab):
    """Prompt → images."""

    title = "Generate"
    help = "New images. Number i starts from the same noise in every arm, so that they compare."
    place = 50
    button = "Generate"

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """Any with a generator."""
        return arm.generator is not None

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """What to show, in words or by class, as far as the generators can be told."""
        generators, config = [bench.generator(arm) for arm in arms], arms[0].run.config
        found = list[Control]()
        if any(map(reads_texts, generators)):
            examples = [c for c in dict.fromkeys(bench.samples.captions) if c][:EXAMPLES]
            found.append(
                Text(name="prompts", label="Prompts", lines=3, value="\n".join(examples),
                     help="One a line.")
            )  # fmt: skip
        classes = next((g.info.classes for g in generators if g.info.classes), None)
        if classes:
            found.append(
                Choice(name="label", label="Class", options=[ANY_CLASS, *classes], value=ANY_CLASS)
            )
        if any(g.backbone.takes for g in generators):
            found.append(
                Number(name="scale", label="Guidance", least=0, most=20, step=0.1,
                       value=scale_of(config), help="1: none. Higher: more like the prompt.")
            )  # fmt: skip
        return [
            *found,
            *draws(config, 8, most=64),
        ]

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """A row for each prompt."""
        prompts = [line.strip() for line in given.get("prompts", "").splitlines() if line.strip()]
        images = generate(
            bench, arm, prompts, given.get("label", ANY_CLASS), count=given["count"],
            steps=given["steps"], scale=given.get("scale", 1), seed=given["seed"],
        )  # fmt: skip
        rows = images.split(given["count"])
        titles = prompts if len(rows) == len(prompts) else [""] * len(rows)
        return [pictures(row, title=t) for row, t in zip(rows, titles, strict=True)]


TAB = Generate()
