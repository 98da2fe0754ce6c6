"""Runs that differ only in their seed, taken together: one row each, means with intervals.

`compare` sets run beside run; with several seeds that hides what matters, whether a difference is
larger than what another seed would have made of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latentsmith.metrics.base import Measurement
from latentsmith.metrics.seeds import across_seeds, paired_difference
from latentsmith.reports.content import Cell, Flag, Table
from latentsmith.reports.glossary import label
from latentsmith.reports.numbers import number_text
from latentsmith.reports.runs import RunRecord, config_differences

SEED = "seed"


@dataclass(frozen=True)
class Group:
    """Runs that differ only in `SEED`.

    Attributes:
        name: what sets the group apart from the others (``loss=pearson``).
        runs: by seed, rising.
        arm: which arm's measurements are compared.
    """

    name: str
    runs: list[RunRecord]
    arm: str

    @property
    def seeds(self) -> list[Any]:
        """The seeds, rising."""
        return [run.config.get(SEED) for run in self.runs]

    def values(self, name: str) -> list[Measurement]:
        """One measurement per run; empty when any run lacks it."""
        found = [run.measurements().get(self.arm, {}).get(name) for run in self.runs]
        known = [m for m in found if m is not None]
        return known if len(known) == len(found) else []


def groups_of(records: Sequence[RunRecord], arm: str) -> list[Group]:
    """The groups, in the order their first runs were given."""
    differences = {k: v for k, v in config_differences(list(records)).items() if k != SEED}
    found: dict[str, list[RunRecord]] = {}
    for n, record in enumerate(records):
        values = {key: of_runs[n] for key, of_runs in differences.items()}
        found.setdefault(_name(values), []).append(record)
    return [
        Group(name, sorted(runs, key=lambda r: r.config.get(SEED, 0)), arm)
        for name, runs in found.items()
    ]


def _name(values: dict[str, Any]) -> str:
    """``loss=si_huber``: a component's kind stands for all its settings."""
    kinds = {key.removesuffix(".kind"): v for key, v in values.items() if key.endswith(".kind")}
    rest = {k: v for k, v in values.items() if not any(k.startswith(f"{kind}.") for kind in kinds)}
    return ", ".join(f"{k}={v}" for k, v in (kinds | rest).items() if v is not None) or "all"


def means(groups: Sequence[Group], columns: Sequence[str], caption: str) -> Table:
    """One row per group: every measurement's mean over seeds, with its interval."""
    known = [name for name in columns if any(group.values(name) for group in groups)]
    rows: list[list[Cell]] = []
    for group in groups:
        cells = [group.values(name) for name in known]
        rows.append([group.name, len(group.runs), *(across_seeds(c) if c else None for c in cells)])
    return Table(["settings", "seeds", *(_head(groups, name) for name in known)], rows, caption)


def changes(groups: Sequence[Group], base: Group, columns: Sequence[str], caption: str) -> Table:
    """One row per group and measurement: the mean change against ``base`` under the same seeds,
    its interval, and whether it is better beyond doubt."""
    rows: list[list[Cell]] = []
    flags: dict[tuple[int, int], Flag] = {}
    for group in groups:
        if group is base or group.seeds != base.seeds:
            continue
        for name in columns:
            new, old = group.values(name), base.values(name)
            if not new or not old:
                continue
            change = across_seeds(new).value - across_seeds(old).value
            interval = paired_difference(new, old)
            verdict = _verdict(interval, new[0].higher_is_better)
            if verdict in ("better", "worse"):
                flags[len(rows), 4] = "go" if verdict == "better" else "no-go"
            shown = "" if interval is None else "[{}, {}]".format(*map(number_text, interval))
            rows.append([group.name, label(new[0]), number_text(change), shown, verdict])
    heads = ["settings", "measurement", "mean change", "95 % interval", "verdict"]
    return Table(heads, rows, caption, flags=flags)


def _verdict(interval: tuple[float, float] | None, up: bool | None) -> str:
    if interval is None or up is None:
        return "one seed: no interval" if interval is None else ""
    low, high = interval if up else (-interval[1], -interval[0])
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def _head(groups: Sequence[Group], name: str) -> str:
    return next(label(values[0]) for group in groups if (values := group.values(name)))
