"""Tables most reports need."""

from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Cell, Table
from latentsmith.reports.glossary import label


def measurement_table(arms: dict[str, list[Measurement]], caption: str = "") -> Table:
    """One row per metric, one column per arm (model, run), in the order first met.

    Raises:
        ValueError: an arm holds two measurements of one name.
    """
    by_arm: dict[str, dict[str, Measurement]] = {}
    for arm, measurements in arms.items():
        by_arm[arm] = {m.name: m for m in measurements}
        if len(by_arm[arm]) != len(measurements):
            names = [m.name for m in measurements]
            twice = sorted({n for n in names if names.count(n) > 1})
            raise ValueError(f"arm {arm!r} holds {', '.join(twice)} more than once")
    first = {m.name: m for ms in arms.values() for m in reversed(ms)}
    names = dict.fromkeys(m.name for ms in arms.values() for m in ms)
    rows: list[list[Cell]] = [
        [label(first[name]), *(by_arm[arm].get(name) for arm in arms)] for name in names
    ]
    return Table(["metric", *arms], rows, caption, ["left", *("right" for _ in arms)])
