"""The model card: what something is, how it was made, how each part of it is loaded."""

import json
from dataclasses import dataclass, field
from typing import Any

import yaml

from latentsmith.export.measured import measured
from latentsmith.export.part import Part
from latentsmith.reports.content import Report

LICENCE = """\
## Licence

Not stated: fill in `license` above. The weights it started from and the images it was trained on
have licences too.
"""
DIGESTS = ("", "digest (xxh3-128)")


@dataclass
class Told:
    """What a card says besides its parts and numbers.

    Attributes:
        sentence: what it is.
        library: that loads it.
        tags: for model hubs.
        entries: more of the front matter.
        made: how it was made, (what, how); plain text or Markdown.
        digests: what belongs together, (what, digest).
        warning: after the digests.
    """

    sentence: str
    library: str
    tags: list[str]
    entries: dict[str, Any] = field(default_factory=dict)
    made: list[tuple[str, str]] = field(default_factory=list)
    digests: list[tuple[str, str]] = field(default_factory=list)
    warning: str = ""


def model_card(name: str, told: Told, parts: list[Part], report: Report | None = None) -> str:
    """Markdown with YAML front matter, as model hubs read it; the licence is left to its author.

    Args:
        name: its title.
        parts: what the folder holds.
        report: whose measurements are shown; None: none are.
    """
    digests = [(what, f"`{digest}`") for what, digest in told.digests]
    made = [(what, how.replace("|", "\\|")) for what, how in told.made]
    sections = [
        f"# {name}\n\n{told.sentence}\n",
        _table("What is here", ("file", "what it is"), [(f"`{p.path}`", p.what) for p in parts]),
        _table("How it was made", ("", ""), made),
        _loading(parts),
        _table("What belongs together", DIGESTS, digests) + told.warning,
    ]
    if report is not None and report.measurements:
        sections.append(measured(report))
    return "\n".join([_front(told), *sections, LICENCE])


def _front(told: Told) -> str:
    entries = {"library_name": told.library, **told.entries, "tags": ["latentsmith", *told.tags]}
    text = yaml.safe_dump(entries, sort_keys=False)
    return f"---\n{text}# license: yours to state\n---\n"


def plain(value: Any) -> str:
    """A setting as a person writes it."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _loading(parts: list[Part]) -> str:
    text = ["## How to load it\n", "Run in this folder, or give its path in the place of `.`.\n"]
    for part in parts:
        if part.code or part.note:
            text.append(f"### `{part.path}`\n")
            text += [f"{part.note}\n"] if part.note else []
            text += [f"```python\n{part.code}```\n"] if part.code else []
    return "\n".join(text)


def _table(title: str, heads: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {a} | {b} |" for a, b in [heads, ("---", "---"), *rows]]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"
