"""Protocol marks: each distinct stamp gets a number, shown beside every value that has it."""

import json

from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.reports.content import Report


class Marks:
    """Numbers stamps from 1 in the order they are first asked for."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._stamps: list[Stamp] = []

    def number(self, stamp: Stamp) -> int:
        """This stamp's number; equal stamps share one."""
        key = json.dumps(vars(stamp), sort_keys=True, default=str)
        if key not in self._numbers:
            self._stamps.append(stamp)
            self._numbers[key] = len(self._stamps)
        return self._numbers[key]

    def rows(self) -> list[tuple[int, Stamp]]:
        """All numbered stamps, in order."""
        return list(enumerate(self._stamps, 1))

    def shared_versions(self) -> dict[str, str]:
        """Package versions on which all stamps agree, to print once."""
        if not self._stamps:
            return {}
        first, *others = [s.versions for s in self._stamps]
        return {k: v for k, v in first.items() if all(o.get(k) == v for o in others)}


def all_measurements(report: Report) -> list[Measurement]:
    """Every measurement the page shows, in reading order, with repeats."""
    found: list[Measurement] = []
    for target in report.targets:
        found += [m for m in (target.measurement, target.reference) if m is not None]
    for table in report.tables():
        found += [c for row in table.rows for c in row if isinstance(c, Measurement)]
    for arm in report.measurements.values():
        found += arm
    return found
