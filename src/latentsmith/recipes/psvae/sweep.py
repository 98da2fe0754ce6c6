"""A sweep's report: every setting's latent spaces in one table."""

from pathlib import Path

from latentsmith.recipes.psvae.config import ARMS
from latentsmith.recipes.psvae.report import NAMES
from latentsmith.reports.sweep import write_sweep

METRICS = (
    "psnr", "feature_mse", "linear_probe", "off_manifold", "fd", "attribute_accuracy",
    "edit_accuracy",
)  # fmt: skip
"""Columns of the tables."""


def write(folders: list[Path], out: Path) -> None:
    """Write ``report.html``, ``report.json`` and ``table.md`` into ``out``."""
    names = [NAMES[arm] for arm in reversed(ARMS)]
    arms = {name: f"{name}: means over seeds, with 95 % intervals." for name in names}
    write_sweep(folders, out, arms=arms, metrics=METRICS, shared="all share data and evaluation.")
