"""A sweep's report: rows' means over seeds, and differences from what each is compared with.

Rows of a list (`latentsmith.config.sweeps`) say themselves what they are compared with: the base,
and controls of equal compute and equal noise. A grid is compared as any recipe's is.
"""

from pathlib import Path

from latentsmith.recipes.textlatent.report import MODEL, WITHOUT
from latentsmith.recipes.textlatent.yardstick import READ_AGAIN
from latentsmith.reports.compare import comparison
from latentsmith.reports.console import publish
from latentsmith.reports.content import Figure, Report, Section, Table
from latentsmith.reports.grouped import Group, changes, means
from latentsmith.reports.markdown import markdown_table
from latentsmith.reports.runs import RunRecord, read_runs
from latentsmith.reports.sweep import write_sweep
from latentsmith.utils.files import atomic_path

METRICS = (
    "content_accuracy", "text_nll", "latent_use", "text_exact", "text_token_f1", "latent_cosine",
    "retrieval_at_1", "latent_mse",
)  # fmt: skip
"""Columns of a grid's tables."""
COLUMNS = (
    "content_accuracy_1", "text_nll", "latent_use", "text_exact", "text_token_f1",
    f"latent_cosine_{READ_AGAIN}", "latent_cosine", "retrieval_at_1", "latent_mse",
    "text_exact_t2l2t", "forwards_per_sample",
)  # fmt: skip
"""Columns of a list's tables."""
DECIDES = (
    "text_nll", "text_exact", "text_token_f1", f"latent_cosine_{READ_AGAIN}", "latent_cosine",
    "retrieval_at_1",
)  # fmt: skip
"""What rows are compared in."""


def write(folders: list[Path], out: Path) -> None:
    """Write ``report.html``, ``report.json`` and ``table.md`` into ``out``."""
    records = read_runs(folders)
    if all(record.config.get("label") for record in records):
        _write_list(records, out)
        return
    arms = {
        MODEL: "The model: means over seeds, with 95 % intervals.",
        WITHOUT: "The same without cycles.",
    }
    write_sweep(folders, out, arms=arms, metrics=METRICS, shared="all share data and evaluation.")


def _write_list(records: list[RunRecord], out: Path) -> None:
    groups = labelled(records)
    items = [means(groups, COLUMNS, "Means over seeds, with Student's 95 % intervals.")]
    items += compared(groups)
    with atomic_path(out / "table.md") as tmp:
        tmp.write_text("\n".join(markdown_table(table) for table in items))
    text = (
        "Each row is one setting; all share data, order, noise and evaluation. Differences are "
        "taken seed by seed. An interval that holds zero is no gain, and each errs once in twenty: "
        "of so many rows, some would stand out by chance."
    )
    whole = comparison(records)
    tables: list[Table | Figure] = [*items]
    report = Report(
        title=f"{len(groups)} settings of text and latent, {max(len(g.runs) for g in groups)} "
        "seed(s)",
        subtitle=whole.subtitle,
        lead=f"{sum(len(t.rows) for t in items[1:])} differences.",
        sections=[Section("Over seeds", text, tables), *whole.sections],
        manifest=whole.manifest,
        kind=whole.kind,
    )
    publish(report, out)


def labelled(records: list[RunRecord]) -> list[Group]:
    """Runs of one label, by seed, in the order of their first."""
    found: dict[str, list[RunRecord]] = {}
    for record in records:
        found.setdefault(record.config["label"], []).append(record)
    return [
        Group(label, sorted(runs, key=lambda r: r.config.get("seed", 0)), MODEL)
        for label, runs in found.items()
    ]


def compared(groups: list[Group]) -> list[Table]:
    """For each row that others are compared with, a table of their differences from it."""
    tables = []
    for base in groups:
        others = [g for g in groups if base.name in g.runs[0].config.get("against", [])]
        if others:
            caption = f"Difference from {base.name}, seed by seed."
            tables.append(changes(others, base, DECIDES, caption))
    return tables
