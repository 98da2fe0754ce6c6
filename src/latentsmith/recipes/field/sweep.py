"""A sweep's report: every setting's methods in one table."""

from pathlib import Path

from latentsmith.autoencoders.field.decoders import DECODERS
from latentsmith.recipes.field.report import NAMES
from latentsmith.reports.sweep import write_sweep

METRICS = ("psnr", "ssim", "agreement", "roughness", "fd", "linear_probe")
"""Columns of the tables."""


def write(folders: list[Path], out: Path) -> None:
    """Write ``report.html``, ``report.json`` and ``table.md`` into ``out``."""
    kinds = sorted((entry.name for entry in DECODERS), key=lambda kind: kind != "cross")
    methods = [*(f"autoencoder, {kind} decoder" for kind in kinds), *NAMES.values()]
    arms = {name: f"{name}: means over seeds, with 95 % intervals." for name in methods}
    write_sweep(folders, out, arms=arms, metrics=METRICS, shared="all share data and evaluation.")
