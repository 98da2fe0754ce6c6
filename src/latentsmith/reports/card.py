"""The latent-space card: what one autoencoder's latents are like, without any training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentsmith.metrics.base import Measurement
from latentsmith.reports.card_figures import card_figures
from latentsmith.reports.content import Cell, Figure, Report, Section, Table
from latentsmith.reports.glossary import explain, label, meaning
from latentsmith.reports.page import write_report

__all__ = ["GROUPS", "card", "card_figures", "write_card"]

GROUPS = {
    "reconstruction": "How close decoded latents come to the originals.",
    "geometry": "Whether distances and neighborhoods between latents follow a space one trusts.",
    "smoothness": "Whether straight paths between latents decode to gradual change.",
    "statistics": "Scale, shape and dimension of the latents: what a generator has to model.",
    "generation": "Whether generated samples look real, and whether all of the real is there.",
    "other": "",
}
"""The card's sections, in order, each with what it answers."""


def card(
    title: str,
    measurements: Sequence[Measurement],
    *,
    figures: Mapping[str, Sequence[Figure]] | None = None,
    not_measured: Mapping[str, str] | None = None,
    subtitle: str = "",
    lead: str = "",
    facts: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Report:
    """The card as a `Report` without targets. Measurements go to the section of their metric.

    Args:
        figures: by group, see `GROUPS`; shown under its table. `card_figures` makes them.
        not_measured: name → why it has no value.
        facts: what is measured: source, parameters, latent shape, weights digest, data.
        config: the measuring command's settings.
    """
    figures = figures or {}
    sections = []
    if facts:
        rows: list[list[Cell]] = [[key, str(value)] for key, value in facts.items()]
        sections.append(Section("Model", "", [Table(["", ""], rows, "", ["left", "left"])]))
    for group, question in GROUPS.items():
        found = [m for m in measurements if explain(m)[0].group == group]
        items: list[Table | Figure] = [_table(found)] if found else []
        items += figures.get(group, ())
        if items:
            sections.append(Section(group.capitalize(), question, items))
    if not_measured:
        reasons: list[list[Cell]] = [[f"`{k}`", why] for k, why in not_measured.items()]
        table = Table(["metric", "why"], reasons, "", ["left", "left"])
        sections.append(Section("Not measured", "", [table]))
    return Report(
        title=title,
        subtitle=subtitle,
        lead=lead,
        sections=sections,
        config=dict(config or {}),
        kind="latent-space card",
    )


def write_card(folder: Path, report: Report) -> Path:
    """Write ``card.html`` and ``card.json`` (with its pictures) into ``folder``."""
    return write_report(folder, report, stem="card")


def _table(measurements: Sequence[Measurement]) -> Table:
    rows: list[list[Cell]] = [[label(m), m, meaning(m)] for m in measurements]
    columns = ["metric", "value", "what it says"]
    return Table(columns, rows, "", ["left", "right", "left"])
