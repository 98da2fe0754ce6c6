"""Runs that differ only in their seed, taken together: one row each, means with intervals.

`compare` sets run beside run; with several seeds that hides what matters, whether a difference is
larger than what another seed would have made of it.
"""

from collections.abc import Collection, Sequence
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

    def values(self, name: str, seeds: Collection[Any] | None = None) -> list[Measurement]:
        """One measurement per run (of these seeds); empty when any run lacks it."""
        runs = [run for run in self.runs if seeds is None or run.config.get(SEED) in seeds]
        found = [run.measurements().get(self.arm, {}).get(name) for run in runs]
        known = [m for m in found if m is not None]
        return known if len(known) == len(found) else []


def groups_of(records: Sequence[RunRecord], arm: str) -> list[Group]:
    """The groups, in the order their first runs were given."""
    differences = {k: v for k, v in config_differences(list(records)).items() if k != SEED}
    found: dict[str, list[int]] = {}
    for n in range(len(records)):
        found.setdefault(repr([of_runs[n] for of_runs in differences.values()]), []).append(n)
    firsts = [numbers[0] for numbers in found.values()]
    groups = []
    for first, numbers in zip(firsts, found.values(), strict=True):
        runs = sorted((records[n] for n in numbers), key=lambda r: r.config.get(SEED, 0))
        groups.append(Group(_name(differences, first, firsts), runs, arm))
    return groups


def _name(differences: dict[str, list[Any]], own: int, firsts: Sequence[int]) -> str:
    """``loss=si_huber, loss.weight=0.3``: a component's kind, and of its settings those in which
    groups of this kind differ (the others follow from the kind)."""
    words = {}
    for key, values in differences.items():
        parts = key.split(".")
        above = [".".join([*parts[:n], "kind"]) for n in range(1, len(parts))]
        kinds = [differences[kind] for kind in above if kind in differences and kind != key]
        alike = [n for n in firsts if all(of[n] == of[own] for of in kinds)]
        if values[own] is not None and any(values[n] != values[own] for n in alike):
            words[key.removesuffix(".kind")] = values[own]
    return ", ".join(f"{key}={value}" for key, value in words.items()) or "all"


def means(groups: Sequence[Group], columns: Sequence[str], caption: str) -> Table:
    """One row per group: every measurement's mean over seeds, with its interval."""
    known = [name for name in columns if any(group.values(name) for group in groups)]
    rows: list[list[Cell]] = []
    for group in groups:
        cells = [group.values(name) for name in known]
        rows.append([group.name, len(group.runs), *(across_seeds(c) if c else None for c in cells)])
    return Table(["settings", "seeds", *(_head(groups, name) for name in known)], rows, caption)


def changes(groups: Sequence[Group], base: Group, columns: Sequence[str], caption: str) -> Table:
    """One row per group and measurement: the mean change against ``base`` under the seeds both
    have, its interval, and whether that leaves zero out (each on its own: of twenty, one errs)."""
    rows: list[list[Cell]] = []
    flags: dict[tuple[int, int], Flag] = {}
    for group in groups:
        seeds = [seed for seed in group.seeds if seed in base.seeds]  # a run may have failed
        if group is base:
            continue
        for name in columns:
            new, old = group.values(name, seeds), base.values(name, seeds)
            if not new or not old:
                continue
            change = across_seeds(new).value - across_seeds(old).value
            interval = paired_difference(new, old)
            verdict = _verdict(interval, new[0].higher_is_better)
            if verdict in ("better", "worse"):
                flags[len(rows), 5] = "go" if verdict == "better" else "no-go"
            shown = "" if interval is None else "[{}, {}]".format(*map(number_text, interval))
            rows.append(
                [group.name, len(seeds), label(new[0]), number_text(change), shown, verdict]
            )
    heads = ["settings", "seeds", "measurement", "mean change", "95 % interval", "verdict"]
    return Table(heads, rows, caption, flags=flags)


def _verdict(interval: tuple[float, float] | None, up: bool | None) -> str:
    if interval is None or up is None:
        return "one seed: no interval" if interval is None else ""
    low, high = interval if up else (-interval[1], -interval[0])
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def _head(groups: Sequence[Group], name: str) -> str:
    return next(label(values[0]) for group in groups if (values := group.values(name)))
