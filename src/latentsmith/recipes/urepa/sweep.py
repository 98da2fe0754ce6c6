"""A sweep's report: every setting of the aligned network in one table."""

from pathlib import Path

from latentsmith.recipes.urepa.report import ALIGNED, UNALIGNED
from latentsmith.reports.sweep import write_sweep

METRICS = (
    "token_cosine", "similarity_mae", "mutual_knn", "linear_probe", "knn_probe", "fd",
)  # fmt: skip
"""Columns of the tables, at every noise level."""


def write(folders: list[Path], out: Path) -> None:
    """Write ``report.html``, ``report.json`` and ``table.md`` into ``out``."""
    arms = {
        ALIGNED: "Aligned networks: means over seeds, with 95 % intervals.",
        UNALIGNED: "Their controls: the same training, not aligned.",
    }
    shared = "all share data, pipeline and evaluation."
    write_sweep(folders, out, arms=arms, metrics=METRICS, shared=shared)
