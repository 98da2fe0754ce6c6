"""Checkpoints that are whole or absent, and that say what they belong to.

``checkpoints/<samples>/`` holds ``model.safetensors`` (trainable parameters and buffers),
``ema.safetensors``, ``optimizer.safetensors`` and ``state.json``. Nothing is pickled, so nothing
in a checkpoint from a stranger can run. No generator state is stored: all randomness is a pure
function of (seed, samples seen).
"""

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.utils.digest import json_digest
from latentsmith.utils.files import atomic_folder, full_disk

STATE = "state.json"


class CorruptCheckpoint(Exception):
    """A file of the checkpoint is missing, cut short or changed."""


def folder_of(root: Path, samples: int) -> Path:
    """Zero-padded, so that sorting by name sorts by progress."""
    return root / f"{samples:012d}"


def listed(root: Path) -> list[Path]:
    """Checkpoint folders under ``root``, oldest first, whether valid or not."""
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if p.is_dir() and re.fullmatch(r"\d+", p.name))


def write(path: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write one checkpoint: file stem → name → tensor, and a JSON-able state.

    Written beside ``path``, fsynced, then renamed; whatever goes wrong, older checkpoints stand.

    Raises:
        UserError: the disk is full.
    """
    from safetensors import SafetensorError

    size = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    try:
        with atomic_folder(path) as folder:
            for stem, group in tensors.items():
                save_tensors(group, folder / f"{stem}.safetensors")
            files = {f.name: _checksum(f) for f in sorted(folder.iterdir())}
            body = {"files": files, "state": state}
            text = json.dumps({"checksum": json_digest(body), **body}, indent=1, allow_nan=False)
            (folder / STATE).write_text(text + "\n")
    except (OSError, SafetensorError) as error:
        if (number := full_disk(error)) is None:
            raise
        older = [p for p in listed(path.parent) if p != path]
        kept = f"the checkpoint {older[-1]} is intact" if older else "there is none yet"
        what, remedy = "no space left on", "Free some space (or lower train.keep_last)"
        if number == errno.EFBIG:
            what, remedy = "files may not become large enough on", "Raise the limit (ulimit -f)"
        raise UserError(
            f"{what} the disk of {path.parent} for a checkpoint of {size / 1e6:,.1f} MB; {kept}. "
            f"{remedy} and run the same command again"
        ) from error


def save_tensors(group: dict[str, Tensor], path: Path) -> None:
    """One safetensors file (contiguous copies on the CPU)."""
    from safetensors.torch import save_file

    save_file({name: t.detach().cpu().contiguous() for name, t in group.items()}, path)


def verify(path: Path) -> dict[str, Any]:
    """The state of a checkpoint whose every file matches its checksum.

    Raises:
        CorruptCheckpoint: naming the first file that does not.
    """
    try:
        whole = json.loads((path / STATE).read_text())
        body = {"files": whole["files"], "state": whole["state"]}
        intact = whole["checksum"] == json_digest(body)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{path / STATE} cannot be read ({error})") from error
    if not intact:
        raise CorruptCheckpoint(f"{path / STATE} does not match its checksum")
    for name, expected in body["files"].items():
        file = path / name
        if not file.is_file():
            raise CorruptCheckpoint(f"{file} is missing")
        if _checksum(file) != expected:
            raise CorruptCheckpoint(f"{file} does not match its checksum")
    return body["state"]


def newest_valid(root: Path, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint whose checksums hold, with its state; None when there is none at all.

    Each corrupt one passed over is reported through ``warn``.

    Raises:
        UserError: there are checkpoints and all are corrupt. Starting over unasked would throw
            the training away.
    """
    complaints = []
    for path in reversed(listed(root)):
        try:
            return path, verify(path)
        except CorruptCheckpoint as error:
            complaints.append(str(error))
            warn(f"CORRUPT CHECKPOINT: {error}. Going back to the one before {path.name}")
    if complaints:
        raise UserError(
            f"every checkpoint in {root} is corrupt: {'; '.join(complaints)}. Put a good copy "
            f"there, or delete the folder to start over"
        )
    return None


def load(path: Path, stem: str) -> dict[str, Tensor]:
    """One file's tensors, on the CPU; empty when the checkpoint has no such file."""
    from safetensors.torch import load_file

    file = path / f"{stem}.safetensors"
    return load_file(file) if file.is_file() else {}


def prune(root: Path, current: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest checkpoints up to ``current``, which was just written.

    Newer ones than ``current`` were passed over as corrupt: they count for nothing and stay to be
    looked at until training overwrites them.
    """
    older = [p for p in listed(root) if p.name <= current.name]
    for path in older[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(root: Path) -> None:
    """Delete what killed processes left half-written."""
    for path in root.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    for path in root.glob(".*.old"):
        # Killed between two renames: this *is* the checkpoint unless the new one stands.
        name = path.name.split(".")[1]
        if re.fullmatch(r"\d+", name) and not (root / name).exists():
            path.replace(root / name)
        else:
            shutil.rmtree(path, ignore_errors=True)


def differences(saved: Any, now: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """dotted key → (saved value, present value) wherever two JSON-able values differ."""
    if isinstance(saved, dict) and isinstance(now, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted({*saved, *now}):
            inner = f"{path}.{key}" if path else str(key)
            found |= differences(saved.get(key, "(absent)"), now.get(key, "(absent)"), inner)
        return found
    return {} if saved == now else {path: (saved, now)}


def _checksum(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as f:
        while block := f.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
