"""A sweep's report: every setting in one table, over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from latentsmith.reports.compare import comparison
from latentsmith.reports.console import publish
from latentsmith.reports.content import Report, Section, Table
from latentsmith.reports.grouped import changes, groups_of, means
from latentsmith.reports.markdown import markdown_table
from latentsmith.reports.runs import RunRecord, read_runs
from latentsmith.utils.files import atomic_path


def write_sweep(
    folders: list[Path], out: Path, *, arms: Mapping[str, str], metrics: Sequence[str], shared: str
) -> None:
    """Write ``report.html``, ``report.json`` and ``table.md`` into ``out``, and print the table.

    Args:
        folders: of the runs.
        arms: name in the runs' reports → caption of its table of means. The first one's changes
            against the first setting are shown too; arms that were not measured are left out.
        metrics: columns, in order.
        shared: what the runs have in common, in a sentence.
    """
    records = read_runs(folders)
    report = _grouped(comparison(records), records, arms, metrics, shared)
    text = "\n".join(
        markdown_table(item) for item in report.sections[0].items if isinstance(item, Table)
    )
    with atomic_path(out / "table.md") as tmp:
        tmp.write_text(text)
    publish(report, out)


def _grouped(
    report: Report,
    records: list[RunRecord],
    arms: Mapping[str, str],
    metrics: Sequence[str],
    shared: str,
) -> Report:
    """The comparison, headed by the tables over seeds."""
    known = {arm: columns for arm in arms if (columns := _columns(records, arm, metrics))}
    items = [means(groups_of(records, arm), known[arm], arms[arm]) for arm in known]
    first = next(iter(arms))
    groups, columns = groups_of(records, first), known.get(first, [])
    if len(groups) > 1:
        caption = f"Change against {groups[0].name}, seed by seed."
        items.append(changes(groups, groups[0], columns, caption))
    return Report(
        title=f"{len(groups)} settings, {max(len(group.runs) for group in groups)} seed(s)",
        subtitle=report.subtitle,
        lead=f"{len(groups)} settings: {len(columns)} measurements each.",
        sections=[
            Section("Over seeds", f"Every row is one setting; {shared}", list(items)),
            *report.sections,
        ],
        manifest=report.manifest,
        kind=report.kind,
    )


def _columns(records: list[RunRecord], arm: str, metrics: Sequence[str]) -> list[str]:
    found = [m for record in records for m in record.measurements().get(arm, {}).values()]
    return list(dict.fromkeys(m.name for name in metrics for m in found if m.metric == name))
