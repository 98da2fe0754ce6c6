"""A report's numbers for a model card, and how each was measured."""

from latentsmith.metrics.base import Stamp
from latentsmith.reports.content import Report
from latentsmith.reports.glossary import label
from latentsmith.reports.markdown import markdown_table
from latentsmith.reports.tables import measurement_table


def measured(report: Report) -> str:
    """A section of Markdown: one table of all measurements, then their protocols."""
    table = markdown_table(measurement_table(report.measurements))
    lines = [f"- {text}: {', '.join(names)}" for text, names in _protocols(report).items()]
    protocols = "How they were measured:\n\n" + "\n".join(lines) + "\n"
    return f"## Measurements\n\n95 % intervals in brackets.\n\n{table}\n{protocols}"


def _protocols(report: Report) -> dict[str, list[str]]:
    """Protocol → what was measured by it, in the order of the table."""
    found: dict[str, list[str]] = {}
    for measurements in report.measurements.values():
        for one in measurements:
            names = found.setdefault(_protocol(one.stamp), [])
            if label(one) not in names:
                names.append(label(one))
    return found


def _protocol(stamp: Stamp) -> str:
    words = [f"{stamp.count} samples of `{stamp.data}`"]
    words += [f"features of {stamp.space}"] if stamp.space else []
    if stamp.sampler is not None:
        steps = "" if stamp.steps is None else f", {stamp.steps} steps"
        words.append(f"sampler {stamp.sampler}{steps}")
    if "guidance" in stamp.detail:
        words.append(f"guidance {stamp.detail['guidance']}")
    words += [] if stamp.ema is None else ["averaged weights" if stamp.ema else "last weights"]
    words += [] if stamp.seed is None else [f"seed {stamp.seed}"]
    return ", ".join(words)
