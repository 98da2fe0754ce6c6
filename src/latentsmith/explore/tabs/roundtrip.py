"""Text → latent → text."""

from typing import Any

from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.blocks import Block, facts, table
from latentsmith.explore.form import Choice, Control, Number, Text
from latentsmith.explore.tab import Tab, references_of
from latentsmith.explore.writing import read_lines, sampler
from latentsmith.sampling.text_latent.writing import roundtrip

MODEL, ENCODER = "the model", "the text encoder"
EXAMPLES = 4
"""Texts of the corpus that are there at first."""


class RoundTrips(Tab):
    """What a latent keeps of a text."""

    title = "Text round trip"
    help = "Texts become latents, and latents texts again: what is lost was not in the latent."
    place = 50
    stacked = True
    button = "There and back"

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """A model of texts and latents."""
        return arm.translator is not None

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """Which texts, by whom, how written."""
        makers = [MODEL, *([ENCODER] if references_of(bench, arms) else [])]
        examples = "\n".join(bench.samples.captions[:EXAMPLES])
        return [
            Text(name="texts", label="Texts", lines=5, value=examples, help="One a line."),
            Choice(name="by", label="Latents by", options=makers, value=makers[-1],
                   help="Who turns the texts into latents, and judges what came back."),
            Number(name="steps", label="Steps", least=1, most=64, value=8,
                   help="Looks at each text while it is written."),
            Number(name="candidates", label="Candidates", least=1, most=16, value=1,
                   help="Texts drawn for each latent; the best is shown."),
            Number(name="seed", label="Seed", least=0, most=2**31, value=0),
        ]  # fmt: skip

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """A row for each text."""
        translator, texts = bench.translator(arm), read_lines(given["texts"])
        trips = roundtrip(
            translator, texts, sampler(given["steps"], given["candidates"]),
            candidates=given["candidates"], seed=given["seed"],
            encoder=bench.text_encoder(arm) if given["by"] == ENCODER else None,
        )  # fmt: skip
        rows = [(t.text, "the same" if t.same else t.back, f"{t.cosine:.3f}") for t in trips]
        mean = sum(t.cosine for t in trips) / len(trips)
        same = f"{sum(t.same for t in trips)} of {len(trips)}"
        return [
            table(["given", "came back", "cosine"], rows),
            facts({"the same": same, "mean cosine": f"{mean:.3f}"}),
        ]


TAB = RoundTrips()
