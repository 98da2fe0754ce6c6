"""Run folders → records. `latentsmith.reports.compare` puts them side by side."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentsmith.errors import UserError
from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Report
from latentsmith.reports.page import load_report

_SKIPPED = {"checkpoints", "samples", "tensorboard"}


@dataclass(frozen=True)
class RunRecord:
    """What a run folder holds."""

    name: str
    """Unique among the runs compared: the folder's name, with parents where needed."""
    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Training logs by part of the run: ``{"" or "baseline" …: [{"kind", "samples", …}]}``."""
    report: Report | None = None

    def measurements(self) -> dict[str, dict[str, Measurement]]:
        """``{arm: {metric name: measurement}}`` of the report."""
        if self.report is None:
            return {}
        return {arm: {m.name: m for m in ms} for arm, ms in self.report.measurements.items()}


def read_run(folder: Path, name: str = "") -> RunRecord:
    """Read ``config.yaml``, ``manifest.json``, every ``metrics.jsonl`` and ``report.json``.

    Raises:
        UserError: no such folder, no config.yaml, or neither a report nor a training log.
    """
    from latentsmith.training.trackers import read_metrics

    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give the run folders to report on.")
    config_file = folder / "config.yaml"
    if not config_file.is_file():
        raise UserError(
            f"{folder} has no config.yaml, so it is not a run folder. "
            "`latentsmith run` and `latentsmith train` make run folders."
        )
    config = _yaml(config_file)
    logs = {str(p.parent.relative_to(folder)): read_metrics(p) for p in _logs(folder)}
    metrics = {"" if part == "." else part: log for part, log in logs.items()}
    report = load_report(folder) if (folder / "report.json").is_file() else None
    if report is None and not metrics:
        raise UserError(
            f"{folder} has neither report.json nor metrics.jsonl: the run has not trained or "
            "measured anything yet. Start it again with the same command; it goes on by itself."
        )
    return RunRecord(
        name=name or folder.resolve().name,
        folder=folder,
        config=config,
        manifest=_json(folder / "manifest.json"),
        metrics=metrics,
        report=report,
    )


def read_runs(folders: list[Path]) -> list[RunRecord]:
    """All of them, under the shortest names that differ.

    Raises:
        UserError: for every folder that cannot be read, in one message; or a folder given twice.
    """
    resolved = [Path(f).resolve() for f in folders]
    twice = sorted({str(f) for f in resolved if resolved.count(f) > 1})
    if twice:
        raise UserError(f"given more than once: {', '.join(twice)}")
    records, errors = [], []
    for folder, name in zip(folders, _names(resolved), strict=True):
        try:
            records.append(read_run(folder, name))
        except UserError as e:
            errors.append(str(e))
    if errors:
        raise UserError("\n".join(errors))
    return records


def config_differences(records: list[RunRecord]) -> dict[str, list[Any]]:
    """``{dotted key: [value per run]}`` for the keys that are not the same in all runs.

    A key a run does not have stands as None. Where the runs live (folder names) is not a setting.
    """
    flat = [flatten(r.config) for r in records]
    keys = dict.fromkeys(k for f in flat for k in f)
    rows = {k: [f.get(k) for f in flat] for k in keys}
    return {k: v for k, v in rows.items() if any(x != v[0] for x in v)}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """``{"loss": {"weight": 1}}`` → ``{"loss.weight": 1}``; lists are leaves unless of dicts."""
    if isinstance(value, dict) and value:
        items = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        items = [(str(i), v) for i, v in enumerate(value)]
    else:
        return {prefix: value} if prefix else {}
    out: dict[str, Any] = {}
    for key, v in items:
        out |= flatten(v, f"{prefix}.{key}" if prefix else key)
    return out


def _logs(folder: Path) -> list[Path]:
    """metrics.jsonl of the run and of its parts (``baseline/metrics.jsonl``), two levels deep."""
    found = [folder / "metrics.jsonl", *folder.glob("*/metrics.jsonl")]
    found += folder.glob("*/*/metrics.jsonl")
    inside = [p for p in found if not _SKIPPED & set(p.relative_to(folder).parts)]
    return sorted((p for p in inside if p.is_file()), key=lambda p: (len(p.parts), str(p)))


def _names(folders: list[Path]) -> list[str]:
    """The last parts of each path, as many as it takes to tell them apart."""
    for depth in range(1, max((len(f.parts) for f in folders), default=1) + 1):
        names = ["/".join(f.parts[-depth:]) for f in folders]
        if len(set(names)) == len(names):
            return names
    return [str(f) for f in folders]


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as e:
        raise UserError(f"{file} is not YAML: {e}") from e
    if not isinstance(value, dict):
        raise UserError(f"{file} holds no settings.")
    return value


def _json(file: Path) -> dict[str, Any]:
    import json

    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{file} is not JSON: {e}") from e
    return value if isinstance(value, dict) else {}
