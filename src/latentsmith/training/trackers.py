"""Where the numbers go: metrics.jsonl always, TensorBoard by default, others by name."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from latentsmith.errors import UserError
from latentsmith.utils.digest import json_digest
from latentsmith.utils.files import atomic_path

Record = dict[str, Any]


class Tracker(Protocol):
    """One sink of records."""

    def log(self, kind: str, samples: int, values: dict[str, float]) -> None:
        """``kind`` is ``"train"`` or ``"validation"``."""
        ...

    def close(self) -> None:
        """Write out what is pending."""
        ...


def read_metrics(file: Path, up_to: int | None = None) -> list[Record]:
    """The records of a metrics.jsonl, optionally only those of at most ``up_to`` samples.

    A last line cut short by a kill is left out.
    """
    if not file.is_file():
        return []
    records = []
    for line in file.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if up_to is None or record["samples"] <= up_to:
            records.append(record)
    return records


def truncate_records(file: Path, up_to: int) -> None:
    """Drop what was recorded after ``up_to`` samples: a run resumed there records it again."""
    if file.is_file():
        kept = read_metrics(file, up_to)
        with atomic_path(file) as tmp:
            tmp.write_text("".join(json.dumps(record) + "\n" for record in kept))


class JsonLines(Tracker):
    """metrics.jsonl: ``{"kind", "samples", name: value…}`` a line; null for NaN and infinity."""

    def __init__(self, file: Path):
        self._file = file.open("a")

    def log(self, kind: str, samples: int, values: dict[str, float]) -> None:
        finite = {n: v if math.isfinite(v) else None for n, v in values.items()}
        self._file.write(json.dumps({"kind": kind, "samples": samples, **finite}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard(Tracker):
    """Event files in ``<folder>/tensorboard``; steps are samples."""

    def __init__(self, folder: Path, resumed_at: int):
        from torch.utils.tensorboard.writer import SummaryWriter

        # purge_step hides what was logged after the checkpoint and will be logged again.
        purge = resumed_at + 1 if resumed_at else None
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def log(self, kind: str, samples: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, samples)

    def close(self) -> None:
        self._writer.close()


class Accelerated(Tracker):
    """wandb or MLflow through accelerate's trackers. A resumed training goes on with the same
    wandb run; in MLflow it is a new run of the same name."""

    def __init__(self, name: str, folder: Path, config: dict[str, Any]):
        from accelerate import tracking

        if name == "wandb":
            same = json_digest(str(folder.resolve()))
            self._tracker = tracking.WandBTracker(
                "latentsmith", name=folder.name, dir=str(folder), id=same, resume="allow"
            )
        else:
            self._tracker = tracking.MLflowTracker("latentsmith", run_name=folder.name)
        self._tracker.start()
        self._tracker.store_init_configuration(_flat(config))

    def log(self, kind: str, samples: int, values: dict[str, float]) -> None:
        self._tracker.log({f"{kind}/{n}": v for n, v in values.items()}, step=samples)

    def close(self) -> None:
        self._tracker.finish()


def _flat(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys: MLflow takes no nesting."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{path}.{key}" if path else key
        flat |= _flat(value, name) if isinstance(value, dict) else {name: str(value)}
    return flat


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError naming the extra to install when a tracker's package is missing."""
    from importlib.util import find_spec

    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f"train.trackers has {name!r}, but the package {name} is not installed: "
                f"pip install 'latentsmith[{name}]', or drop it (metrics.jsonl is always written)"
            )


def open_trackers(
    names: Sequence[str], folder: Path, resumed_at: int, config: dict[str, Any]
) -> list[Tracker]:
    """JSON lines first, then the named ones. Main process only."""
    check_trackers(names)
    opened: list[Tracker] = [JsonLines(folder / "metrics.jsonl")]
    for name in names:
        if name == "tensorboard":
            opened.append(TensorBoard(folder, resumed_at))
        else:
            opened.append(Accelerated(name, folder, config))
    return opened
