"""What a run is, and what its report says."""

from typing import Any

from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.blocks import Block, facts, link, note, table
from latentsmith.explore.form import Control
from latentsmith.explore.tab import Tab
from latentsmith.reports.glossary import label
from latentsmith.reports.numbers import value_text
from latentsmith.reports.page import load_report

STEMS = ("report", "card")
"""What recipes call their page and its numbers."""


class About(Tab):
    """Settings that were typed, verdicts, numbers."""

    title = "Run"
    help = "Which run this is, what was asked of it, and what its report found."
    place = 90
    stacked = True
    live = True

    def fits(self, bench: Bench, arm: Arm) -> bool:
        """Every run, once: by its last arm."""
        same = [other for other in bench.arms if other.run.path == arm.run.path]
        return arm is same[-1]

    def controls(self, bench: Bench, arms: list[Arm]) -> list[Control]:
        """None."""
        return []

    def blocks(self, bench: Bench, arm: Arm, given: dict[str, Any]) -> list[Block]:
        """Facts, targets, measurements."""
        run = arm.run
        done = [s.name for s in run.config.stages() if run.stage_done(s.name)]
        found = [
            facts({
                "recipe": run.config.kind,
                "settings": " ".join(run.overrides) or "its own",
                "folder": str(run.path),
                "seed": str(run.config.seed),
            }),
            note(
                f"Stages done: {', '.join(done) or 'none'}."
                + ("" if run.finished else " The run is not through: its command goes on with it.")
            ),
        ]  # fmt: skip
        return [*found, *self._report(arm)]

    @staticmethod
    def _report(arm: Arm) -> list[Block]:
        """Of a run that was measured: its targets, and all numbers, an arm a column."""
        stem = next((s for s in STEMS if (arm.run.path / f"{s}.json").is_file()), None)
        if stem is None:
            return []
        report = load_report(arm.run.path, stem=stem)
        found = [link("Open the whole report", f"report/{arm.key}")]
        if report.targets:
            rows = [
                (t.name, value_text(t.measurement) if t.measurement else "", t.threshold, t.verdict)
                for t in report.targets
            ]
            found.append(table(["target", "value", "wanted", "verdict"], rows))
        by_arm = {arm: {m.name: m for m in ms} for arm, ms in report.measurements.items()}
        first = {name: m for ms in by_arm.values() for name, m in ms.items()}
        rows = [
            (label(m), *(value_text(ms[name]) if name in ms else "" for ms in by_arm.values()))
            for name, m in first.items()
        ]
        return [*found, table(["measured", *by_arm], rows)] if rows else found


TAB = About()
