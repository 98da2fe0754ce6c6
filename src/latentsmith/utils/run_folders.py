"""Run folders looked at from outside: which there are, and how each stands.

Reads the folders' own files and nothing else, neither torch nor the recipes' settings, so that
``latentsmith runs`` is quick and lists runs of recipes that are not installed any more.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latentsmith.utils.lock import is_held

State = Literal["done", "running", "stopped", "failed"]


@dataclass(frozen=True)
class RunFacts:
    """One run at a glance."""

    folder: Path
    recipe: str
    state: State
    """``stopped``: begun, not through, nobody at work; the same command goes on."""
    stages: int
    """How many stages are done."""
    age: float
    """Seconds since something last changed."""
    size: int
    """Bytes on disk."""
    best: str
    """The first target of its report with its verdict; without a report the lowest validation
    loss; empty before there is either."""
    error: str = ""
    """What ended it, if it failed."""


def find_runs(root: Path) -> list[Path]:
    """Run folders at or below ``root``, sorted; not those inside other runs."""
    found = []
    for folder, below, files in os.walk(root):
        if {"config.yaml", "manifest.json"} <= set(files):
            found.append(Path(folder))
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
    return sorted(found)


def facts(folder: Path) -> RunFacts:
    """How a run stands. Damaged files count as absent."""
    failed = _json(folder / "failed.json")
    manifest = _json(folder / "manifest.json")
    if (folder / "finished.json").is_file():
        state: State = "done"
    elif is_held(folder / "run.lock"):
        state = "running"
    else:
        state = "failed" if failed else "stopped"
    return RunFacts(
        folder=folder,
        recipe=str(manifest.get("recipe", "?")),
        state=state,
        stages=len(list(folder.glob("stages/*.json"))),
        age=max(time.time() - _last_change(folder), 0.0),
        size=size_of(folder),
        best=_best(folder),
        error=str(failed.get("error", "")) if state == "failed" else "",
    )


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count as themselves."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    sizes = (
        Path(folder, name).lstat().st_size for folder, _, files in os.walk(path) for name in files
    )
    return sum(sizes)


def _last_change(folder: Path) -> float:
    """Of what a run writes as it goes on."""
    names = ("*.json", "stages/*.json", "training/*/metrics.jsonl", "config.yaml")
    return max(file.stat().st_mtime for name in names for file in folder.glob(name))


def _best(folder: Path) -> str:
    for name in ("report.json", "card.json"):
        report = _json(folder / name)
        for target in report.get("targets", []):
            if isinstance(target.get("value"), int | float):
                return f"{target['name']} {target['value']:.4g} ({target['verdict']})"
        for measured in (m for ms in report.get("measurements", {}).values() for m in ms):
            if isinstance(measured.get("value"), int | float):
                return f"{measured['name']} {measured['value']:.4g}"
    losses = [(loss, log.parent.name) for log in _logs(folder) for loss in _validations(log)]
    if not losses:
        return ""
    loss, part = min(losses)
    return f"validation loss {loss:.4g} ({part})"


def _logs(folder: Path) -> list[Path]:
    return sorted(folder.glob("training/*/metrics.jsonl")) + sorted(folder.glob("metrics.jsonl"))


def _validations(log: Path) -> Iterator[float]:
    for line in log.read_text().splitlines():
        if '"validation"' in line:
            try:
                loss = json.loads(line).get("loss")
            except ValueError:  # being written
                continue
            if isinstance(loss, int | float):
                yield loss


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
