"""The way between two texts through their latents."""

from typing import Any

import torch

from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.blocks import Block, table
from latentsmith.explore.form import Choice, Control, Number, Text
from latentsmith.explore.tab import Tab
from latentsmith.explore.writing import read_lines, sampler
from latentsmith.metrics.interpolation import path
from latentsmith.sampling.text_latent.writing import invert


class BetweenTexts(Tab):
    """Texts written for latents on the way from one to another."""

    title = "Between texts"
    help = "Two texts become latents, and texts are written for latents on the way between them."
    place = 60
    stacked = True
    button = "Write"

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """A model of texts and latents."""
        return arm.translator is not None

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """Between what, how."""
        first, second = [*bench.samples.captions, "", ""][:2]
        return [
            Text(name="start", label="From", value=first, lines=2),
            Text(name="end", label="To", value=second, lines=2),
            Choice(name="path", label="Path", options=["lerp", "slerp"], value="slerp",
                   help="Straight, or along the sphere."),
            Number(name="count", label="Texts", least=3, most=25, value=7),
            Number(name="steps", label="Steps", least=1, most=64, value=8),
        ]  # fmt: skip

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """A row for each latent."""
        translator = bench.translator(arm)
        ends = translator.encode(read_lines(f"{given['start']}\n{given['end']}", exactly=2))
        times = torch.linspace(0, 1, given["count"])
        start, end = (ends[n : n + 1].expand(len(times), *ends.shape[1:]) for n in (0, 1))
        written = invert(
            translator, path(given["path"])(start, end, times), sampler(given["steps"], 1)
        )
        rows = [(f"{t:.2f}", w.text) for t, w in zip(times.tolist(), written, strict=True)]
        return [table(["t", "written"], rows)]


TAB = BetweenTexts()
