"""The latent-space card: what one autoencoder's latents are like, without any training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentsmith.errors import UserError, nearest
from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Cell, Figure, Report, Section, Table
from latentsmith.reports.glossary import explain, label
from latentsmith.reports.page import write_report

GROUPS = {
    "reconstruction": "How close decoded latents come to the originals.",
    "geometry": "Whether distances and neighbourhoods between latents follow a space one trusts.",
    "smoothness": "Whether straight paths between latents decode to gradual change.",
    "statistics": "Scale, shape and dimension of the latents: what a generator has to model.",
}
"""The card's sections, in order, each with what it answers."""


def card(
    title: str,
    measurements: Mapping[str, Sequence[Measurement]],
    *,
    figures: Mapping[str, Sequence[Figure]] | None = None,
    subtitle: str = "",
    lead: str = "",
    facts: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Report:
    """The card as a `Report` without targets.

    Args:
        measurements: by group, see `GROUPS`; groups may be missing or empty.
        figures: by group, shown under its table.
        facts: what is measured: source, parameters, latent shape, weights digest, data.
        config: the measuring command's settings.

    Raises:
        UserError: a group that is not in `GROUPS`.
    """
    figures = figures or {}
    for group in (*measurements, *figures):
        if group not in GROUPS:
            raise UserError(f"a latent-space card has no group {group!r}. {nearest(group, GROUPS)}")
    sections = []
    if facts:
        rows: list[list[Cell]] = [[key, str(value)] for key, value in facts.items()]
        sections.append(Section("Model", "", [Table(["", ""], rows, "", ["left", "left"])]))
    for group, question in GROUPS.items():
        found = list(measurements.get(group, ()))
        items: list[Table | Figure] = [_table(found)] if found else []
        items += figures.get(group, ())
        if items:
            sections.append(Section(group.capitalize(), question, items))
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
    rows: list[list[Cell]] = [[label(m), m, explain(m.name)[0].meaning] for m in measurements]
    columns = ["metric", "value", "what it says"]
    return Table(columns, rows, "", ["left", "right", "left"])
