"""A sweep's report: every regularizer in one table, against the plain autoencoder."""

import logging
from pathlib import Path

from latentsmith.recipes.mmreg.config import TRAINED_REFERENCE
from latentsmith.recipes.mmreg.report import REGULARIZED
from latentsmith.reports.compare import comparison
from latentsmith.reports.console import publish
from latentsmith.reports.content import Report, Section
from latentsmith.reports.grouped import Group, changes, groups_of, means
from latentsmith.reports.markdown import markdown_table
from latentsmith.reports.runs import RunRecord, read_runs
from latentsmith.utils.files import atomic_path

log = logging.getLogger(__name__)

GEOMETRY = [
    f"pairdist_pearson_{TRAINED_REFERENCE}", "linear_probe", "psnr", "ssim", "lpips_vgg",
    "lpips_alex",
]  # fmt: skip
"""Columns of every sweep; smoothness and generation follow, by feature space."""


def write(folders: list[Path], out: Path) -> None:
    """Write ``report.html``, ``report.json`` and ``table.md`` into ``out``.

    With one seed for everything it is the usual comparison of runs.
    """
    records = read_runs(folders)
    groups = groups_of(records, REGULARIZED)
    report = comparison(records)
    if any(len(group.runs) > 1 for group in groups):
        report = _grouped(report, groups)
        text = "\n".join(markdown_table(table) for table in report.sections[0].items)  # type: ignore[arg-type]
        with atomic_path(out / "table.md") as tmp:
            tmp.write_text(text)
    publish(report, out)


def _grouped(report: Report, groups: list[Group]) -> Report:
    """The comparison, headed by the tables over seeds."""
    columns = _columns([run for group in groups for run in group.runs])
    items = [means(groups, columns, "Means over seeds, with Student's 95 % intervals.")]
    base = next((group for group in groups if _plain(group)), None)
    if base is not None:
        caption = f"Change against {base.name}, seed by seed."
        items.append(changes(groups, base, columns, caption))
    text = "Every row is one setting, trained from several seeds; all share data and evaluation."
    first = Section("Over seeds", text, list(items))
    return Report(
        title=f"{len(groups)} settings, {max(len(g.runs) for g in groups)} seeds",
        subtitle=report.subtitle,
        lead=_lead(groups, columns),
        sections=[first, *report.sections],
        manifest=report.manifest,
        kind=report.kind,
    )


def _columns(records: list[RunRecord]) -> list[str]:
    names = {name for record in records for name in record.measurements().get(REGULARIZED, {})}
    later = sorted(n for n in names if n.startswith(("fd_", "ifd_")))
    generated = [n for n in names if n.startswith("generated_fd_at_")]
    generated.sort(key=lambda n: (n.split("_", 4)[4], int(n.split("_")[3])))  # space, then samples
    return [*GEOMETRY, *later, *generated]


def _plain(group: Group) -> bool:
    """Whether the group is trained without a regularizer."""
    config = group.runs[0].config
    loss = config.get("loss", {})
    return (loss.get("kind") == "none" or loss.get("weight") == 0) and not config.get("more_losses")


def _lead(groups: list[Group], columns: list[str]) -> str:
    return f"{len(groups)} settings over seeds {groups[0].seeds}: {len(columns)} measurements each."
