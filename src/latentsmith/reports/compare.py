"""Several runs on one page: targets and metrics side by side, what differs, which is better."""

import math
from pathlib import Path
from typing import Any

from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Align, Cell, Figure, Flag, Report, Section, Table, Target
from latentsmith.reports.glossary import explain, label
from latentsmith.reports.page import write_report
from latentsmith.reports.plots import TradePoint, tradeoff, training_curves
from latentsmith.reports.runs import RunRecord, config_differences, read_runs
from latentsmith.reports.tables import measurement_table

Differences = dict[str, list[Any]]


def compare(folders: list[Path], out: Path) -> Report:
    """Compare run folders, write ``report.html`` and ``report.json`` into ``out``.

    A value is marked best only when its 95 % interval overlaps no other run's and all were
    measured by one protocol; without intervals nothing is marked.

    Raises:
        UserError: folders that are no runs (all named at once).
    """
    report = comparison(read_runs(folders))
    write_report(out, report)
    return report


def comparison(records: list[RunRecord]) -> Report:
    """The report of `compare`, not yet written."""
    differences = config_differences(records)
    sections = [
        _targets_section(records, differences),
        _config_section(records, differences),
        *_metric_sections(records),
        _curves_section(records),
    ]
    return Report(
        title=f"Comparison of {len(records)} run{'s' if len(records) != 1 else ''}",
        subtitle=", ".join(f"`{r.name}`" for r in records),
        lead=_lead(records, differences),
        sections=[s for s in sections if s.items or s.text],
        manifest={r.name: {"folder": str(r.folder), **r.manifest} for r in records},
        kind="comparison",
    )


def best(values: list[Measurement | None]) -> int | None:
    """Index of the value that is better than all others beyond doubt, else None.

    Needs a direction, one protocol, finite intervals everywhere, and no overlap.
    """
    known = {i: m for i, m in enumerate(values) if m is not None}
    spans = {i: m.interval for i, m in known.items() if m.interval is not None}
    if len(known) < 2 or len(spans) < len(known) or protocol_differences(list(known.values())):
        return None
    up = next(iter(known.values())).higher_is_better
    if up is None or not all(math.isfinite(end) for span in spans.values() for end in span):
        return None
    sign = 1.0 if up else -1.0
    worst_first = {i: sorted(sign * end for end in span) for i, span in spans.items()}
    winner = max(worst_first, key=lambda i: worst_first[i][0])
    clear = all(
        high < worst_first[winner][0] for i, (_, high) in worst_first.items() if i != winner
    )
    return winner if clear else None


def protocol_differences(measurements: list[Measurement]) -> list[str]:
    """Stamp fields on which they disagree (package versions aside): not comparable if any."""
    keys = ("data", "count", "space", "seed", "sampler", "steps", "ema", "detail")
    first = measurements[0].stamp
    return [k for k in keys if any(getattr(m.stamp, k) != getattr(first, k) for m in measurements)]


def _lead(records: list[RunRecord], differences: Differences) -> str:
    verdicts = [r.report.verdict for r in records if r.report is not None and r.report.verdict]
    go = sum(v == "go" for v in verdicts)
    parts = [f"{go} of {len(verdicts)} runs meet all their targets."] if verdicts else []
    if len(differences) == 1:
        parts.append(f"The runs differ in one setting, `{next(iter(differences))}`.")
    elif differences:
        parts.append(f"The runs differ in {len(differences)} settings, listed below.")
    else:
        parts.append("The runs' configs are the same.")
    return " ".join(parts)


def _only_key(differences: Differences) -> str:
    """The setting in which the runs differ, when it is one."""
    return next(iter(differences)) if len(differences) == 1 else ""


def _targets_by_name(records: list[RunRecord]) -> dict[str, list[Target | None]]:
    by_run = [{t.name: t for t in r.report.targets} if r.report else {} for r in records]
    return {n: [b.get(n) for b in by_run] for n in dict.fromkeys(n for b in by_run for n in b)}


def _targets_section(records: list[RunRecord], differences: Differences) -> Section:
    targets = _targets_by_name(records)
    if not targets:
        return Section("Targets")
    key = _only_key(differences)
    lead: list[Cell] = [f"`{key}`"] if key else []
    aligns: list[Align] = ["right"] if key else []
    rows: list[list[Cell]] = []
    flags: dict[tuple[int, int], Flag] = {}
    for i, r in enumerate(records):
        verdict = (r.report.verdict if r.report else None) or "no targets"
        setting: list[Cell] = [str(differences[key][i])] if key else []
        rows.append([r.name, *setting, verdict])
        for target in (ts[i] for ts in targets.values()):
            if target is not None:
                flags[i, len(rows[i])] = target.verdict
            rows[i].append(target.measurement if target is not None else None)
    columns = ["run", *map(str, lead), "verdict", *targets]
    align: list[Align] = ["left", *aligns, "left", *("right" for _ in targets)]
    bars = "; ".join(f"{name} {_thresholds(ts)}" for name, ts in targets.items())
    table = Table(columns, rows, f"Bars: {bars}.", align, flags)
    return Section("Targets", "", [table, *_tradeoff(records, targets, differences)])


def _thresholds(targets: list[Target | None]) -> str:
    return " or ".join(dict.fromkeys(t.threshold for t in targets if t is not None))


def _tradeoff(
    records: list[RunRecord], targets: dict[str, list[Target | None]], differences: Differences
) -> list[Figure]:
    """What is gained (the first target above a number) against what it may cost (the first within
    some per cent of the baseline), when at least two runs measured both."""
    gains = next((ts for ts in targets.values() if _rule(ts) == "above"), [])
    costs = next((ts for ts in targets.values() if _rule(ts) == "within"), [])
    pairs = [
        (i, g, c)
        for i, (g, c) in enumerate(zip(gains, costs, strict=False))
        if g is not None and c is not None and g.measurement and c.measurement
    ]
    if len(pairs) < 2:
        return []
    key = _only_key(differences)
    if key:
        pairs.sort(key=lambda p: _order(differences[key][p[0]]))
    points = [
        TradePoint(
            str(differences[key][i]) if key else records[i].name, g.measurement, c.measurement
        )
        for i, g, c in pairs
        if g.measurement and c.measurement
    ]
    _, g, c = pairs[0]
    shared = all(p[2].bound == c.bound for p in pairs)  # each run may have its own baseline
    caption = f"{g.name} against {c.name}" + (f", by `{key}`" if key else "")
    caption += ". Whiskers: 95 % intervals. "
    caption += "The shaded corner meets both bars." if shared else "Each run has its own baseline."
    unit = c.measurement.unit if c.measurement else ""
    return [
        tradeoff(
            points,
            caption=caption,
            gain_label=g.name,
            cost_label=f"{c.name} ({unit})" if unit else c.name,
            gain_bar=g.bound,
            cost_bar=c.bound if shared else None,
            cost_bar_label=c.threshold,
            baseline=(
                TradePoint("baseline", g.reference, c.reference)
                if shared and g.reference and c.reference
                else None
            ),
        )
    ]


def _rule(targets: list[Target | None]) -> str:
    return next((t.rule for t in targets if t is not None), "")


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then everything else by name."""
    number = isinstance(value, int | float)
    return (not number, float(value) if number else 0.0, str(value))


def _config_section(records: list[RunRecord], differences: Differences) -> Section:
    if not differences:
        return Section("What differs", "The configs are the same, key by key.")
    rows: list[list[Cell]] = [
        [f"`{key}`", *(_setting(v) for v in values)] for key, values in differences.items()
    ]
    columns = ["setting", *(r.name for r in records)]
    align: list[Align] = ["left" for _ in columns]
    return Section("What differs", "", [Table(columns, rows, "", align)])


def _setting(value: Any) -> str:
    return "–" if value is None else str(value)


def _metric_sections(records: list[RunRecord]) -> list[Section]:
    """One section per arm: a row per metric, a column per run."""
    by_run = [r.measurements() for r in records]
    names = [r.name for r in records]
    sections = []
    for arm in dict.fromkeys(arm for run in by_run for arm in run):
        columns = [run.get(arm, {}) for run in by_run]
        if len(columns) > 1 and all(c == columns[0] for c in columns):
            table = measurement_table({"every run": list(columns[0].values())})
        else:
            table = _side_by_side(names, columns)
        sections.append(Section(f"Measured: {arm}", "", [table]))
    return sections


def _side_by_side(runs: list[str], columns: list[dict[str, Measurement]]) -> Table:
    rows: list[list[Cell]] = []
    flags: dict[tuple[int, int], Flag] = {}
    unlike = []
    for i, name in enumerate(dict.fromkeys(n for column in columns for n in column)):
        values = [column.get(name) for column in columns]
        known = [m for m in values if m is not None]
        rows.append([label(known[0]), *values])
        winner = best(values)
        if winner is not None:
            flags[i, winner + 1] = "best"
        if fields := protocol_differences(known):
            unlike.append(f"{explain(known[0])[0].label} ({', '.join(fields)})")
    caption = "★: better than every other run, 95 % intervals apart, same protocol."
    if unlike:
        caption += f" Measured by different protocols, so not comparable: {'; '.join(unlike)}."
    align: list[Align] = ["left", *("right" for _ in runs)]
    return Table(["metric", *runs], rows, caption, align, flags)


def _curves_section(records: list[RunRecord]) -> Section:
    logs = {}
    for r in records:
        for part, log in r.metrics.items():
            logs[f"{r.name}/{part}" if part else r.name] = log
    figure = training_curves(logs, caption="Training and validation, one line per run.")
    return Section("Curves", "", [figure] if figure else [])
