"""A sweep's report: every setting of the aligned network in one table."""

from pathlib import Path

from latentsmith.recipes.urepa.report import ALIGNED, UNALIGNED
from latentsmith.reports.compare import comparison
from latentsmith.reports.console import print_verdict
from latentsmith.reports.content import Report, Section
from latentsmith.reports.grouped import changes, groups_of, means
from latentsmith.reports.markdown import markdown_table
from latentsmith.reports.page import write_report
from latentsmith.reports.runs import RunRecord, read_runs
from latentsmith.utils.files import atomic_path

METRICS = (
    "token_cosine", "similarity_mae", "mutual_knn", "linear_probe", "knn_probe", "fd",
)  # fmt: skip
"""Columns of the tables, at every noise level."""


def write(folders: list[Path], out: Path) -> None:
    """Write ``report.html``, ``report.json`` and ``table.md`` into ``out``."""
    records = read_runs(folders)
    report = _grouped(comparison(records), records)
    text = "\n".join(markdown_table(table) for table in report.sections[0].items)  # type: ignore[arg-type]
    with atomic_path(out / "table.md") as tmp:
        tmp.write_text(text)
    print_verdict(report, write_report(out, report))


def _grouped(report: Report, records: list[RunRecord]) -> Report:
    """The comparison, headed by the tables over seeds: aligned networks, then their controls."""
    groups, controls = groups_of(records, ALIGNED), groups_of(records, UNALIGNED)
    columns = _columns(records, ALIGNED)
    plain = _columns(records, UNALIGNED)
    items = [means(groups, columns, "Aligned networks: means over seeds, with 95 % intervals.")]
    if plain:
        items.append(means(controls, plain, "Their controls: the same training, not aligned."))
    if len(groups) > 1:
        caption = f"Change against {groups[0].name}, seed by seed."
        items.append(changes(groups, groups[0], columns, caption))
    text = "Every row is one setting; all share data, pipeline and evaluation."
    return Report(
        title=f"{len(groups)} settings, {max(len(group.runs) for group in groups)} seed(s)",
        subtitle=report.subtitle,
        lead=f"{len(groups)} settings: {len(columns)} measurements each.",
        sections=[Section("Over seeds", text, list(items)), *report.sections],
        manifest=report.manifest,
        kind=report.kind,
    )


def _columns(records: list[RunRecord], arm: str) -> list[str]:
    found = [m for record in records for m in record.measurements().get(arm, {}).values()]
    return list(dict.fromkeys(m.name for name in METRICS for m in found if m.metric == name))
