"""A run's folder: what it holds, who may write it, and when it may be gone on with.

Default place: ``runs/<recipe>/<scale>``, with the remaining overrides appended
(``runs/mmreg/laptop,loss.weight=0.3``). It is a function of the command alone, never of the
clock: the same command finds its folder again and resumes, every torchrun rank agrees on it
without talking, and another setting gets another folder.
"""

import contextlib
import hashlib
import html
import json
import logging
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from latentsmith.config.manifest import environment
from latentsmith.config.saved import diff, from_yaml, to_yaml
from latentsmith.errors import UserError
from latentsmith.recipes.base import RECIPES, RecipeConfig
from latentsmith.utils.files import atomic_path, make_folder, move_aside, tidy, write_json
from latentsmith.utils.lock import Lock

log = logging.getLogger(__name__)

ROOT = Path("runs")
"""Where runs go unless ``--out`` says otherwise, below the current folder."""

BEGUN = {"config.yaml", "manifest.json", "overrides.txt", "run.lock", "failed.json"}
"""What a run's folder holds before any stage has left something."""


def rank() -> int:
    """This process's rank under torchrun; 0 otherwise."""
    return int(os.environ.get("RANK", "0"))


def default_path(recipe: str, overrides: list[str] | tuple[str, ...]) -> Path:
    """``runs/<recipe>/<scale>[,<other overrides>]``. The order of overrides does not matter; a
    name too long for a folder ends in a hash instead."""
    last = {text.partition("=")[0]: text for text in overrides}  # the last one of a key holds
    scale = last.pop("scale", f"scale={_usual_scale(recipe)}").partition("=")[2]
    return ROOT / recipe / folder_name([scale, *sorted(last.values())])


def folder_name(words: Sequence[str]) -> str:
    """The words joined by commas, as a folder may be called; a hash at the end where letters had
    to be replaced or the name was too long."""
    name = ",".join(words)
    safe = re.sub(r"[^\w.,=+@~\[\]-]+", "_", name)
    if safe != name or len(safe) > 120:
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        safe = f"{safe[:100]}-{digest}"
    return safe


def _usual_scale(recipe: str) -> str:
    """The scale a run without ``scale=`` has."""
    from latentsmith.config.compose import nodes_of
    from latentsmith.config.nodes import DEFAULT_SCALE

    known = recipe in RECIPES.names() and DEFAULT_SCALE in nodes_of(recipe).presets_of("scale")
    return DEFAULT_SCALE if known else "default"


@dataclass
class Run:
    """An opened (or finished) run.

    Attributes:
        path: its folder.
        config: the settings it runs with.
        overrides: what the user typed.
        writable: True for the one process that writes: rank 0 of `open`. Elsewhere `note` and
            `mark_done` do nothing.
    """

    path: Path
    config: RecipeConfig
    overrides: list[str] = field(default_factory=list)
    writable: bool = False
    shared: Path | None = None
    """Where the runs of a sweep keep what they have in common."""
    _lock: Lock | None = field(default=None, repr=False)
    _places: list[Lock] = field(default_factory=list, repr=False)
    _made: list[Path] = field(default_factory=list, repr=False)
    """Folders that were not there before `open`, the innermost first."""
    _old: Path | None = field(default=None, repr=False)
    """Where ``fresh`` moved the run that was there."""

    @classmethod
    def open(
        cls,
        path: Path | str | None,
        config: RecipeConfig,
        overrides: list[str] | tuple[str, ...] = (),
        *,
        fresh: bool = False,
    ) -> "Run":
        """Create the folder, or go on in it.

        Args:
            path: the folder, or None for `default_path`.
            config: composed settings.
            overrides: the user's part of them, kept for the record.
            fresh: move an existing run aside (``<name>.old-1``) and start anew.

        Raises:
            UserError: the folder holds a run with other settings (each is named with both
                values), holds something that is no run, is being written by another process, or
                cannot be made.
        """
        path = Path(path) if path is not None else default_path(config.kind, overrides)
        run = cls(path, config, list(overrides), writable=rank() == 0)
        if not run.writable:
            return run
        if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not _is_run(path))):
            raise UserError(
                f"{path} exists and is not a run folder. Give another with --out FOLDER."
            )
        run._made = make_folder(path)
        run._lock = Lock.take(path / "run.lock")
        try:
            if fresh and (path / "config.yaml").exists():
                run._lock.release()
                run._old = move_aside(path)
                log.info("moved the old run to %s", run._old)
                run._made = make_folder(path)
                run._lock = Lock.take(path / "run.lock")
            tidy(path)
            run._begin_or_resume()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def load(cls, path: Path | str) -> "Run":
        """A run to read from.

        Raises:
            UserError: ``path`` is no run folder, or its settings no longer fit.
        """
        path = Path(path)
        file = path / "config.yaml"
        if not file.is_file():
            raise UserError(f"{path} is not a run folder: it has no config.yaml.")
        typed = path / "overrides.txt"
        overrides = typed.read_text().splitlines() if typed.is_file() else []
        return cls(path, from_yaml(file.read_text(), where=file), overrides)

    @classmethod
    def beside(cls, path: Path | str) -> "Run":
        """A run to do one stage of, which another process of the same command has opened.

        Raises UserError as `load` does."""
        run = cls.load(path)
        run.writable = True
        return run

    def held(self) -> list[int]:
        """File descriptors of the folder's lock. A process that inherits them holds it, too."""
        return [self._lock.fd] if self._lock is not None else []

    def close(self) -> None:
        """Let other processes write the folder."""
        self.let_go()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is not None and issubclass(kind, Exception):  # Ctrl-C is no failure
            self._note_failure(exc[0])
        if kind is not None and issubclass(kind, UserError):
            self._take_back()
        self.close()

    def _note_failure(self, error: object) -> None:
        """Say for `latentsmith runs` what ended this session; the next one takes it back."""
        if self.writable and self.path.is_dir():
            told = f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else error
            with contextlib.suppress(OSError):  # a full disk may be what ended it
                write_json(self.path / "failed.json", {"failed": _now(), "error": str(told)})

    def _take_back(self) -> None:
        """Leave nothing of a run that a mistake ended before any stage had left something."""
        if self.path not in self._made:  # gone on with, or another process's to write
            return
        if {file.name for file in self.path.rglob("*") if not file.is_dir()} - BEGUN:
            return
        shutil.rmtree(self.path)
        for folder in self._made[1:]:
            if any(folder.iterdir()):  # another run's by now
                break
            folder.rmdir()
        if self._old is not None:
            self._old.rename(self.path)

    @property
    def manifest(self) -> dict[str, Any]:
        """What ``manifest.json`` holds; empty when there is none."""
        file = self.path / "manifest.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def note(self, key: str, value: Any) -> None:
        """Write a fact into the manifest (a fingerprint, where the data came from)."""
        if self.writable:
            write_json(self.path / "manifest.json", self.manifest | {key: value})

    def folder(self, *parts: str) -> Path:
        """A subfolder, made if this process may write."""
        path = self.path.joinpath(*parts)
        if self.writable:
            path.mkdir(parents=True, exist_ok=True)
        return path

    def place(self, name: str, identity: dict[str, Any]) -> Path:
        """Folder for a piece of work that depends on nothing but ``identity`` (JSON-able).

        In a run on its own it is ``training/<name>``. Runs of one sweep keep such folders side by
        side (``shared``), named by a digest of the identity, so that what two of them have in
        common (a pretrained start, a baseline) is made once: a process that asks for one waits
        until the process that has it is through with its stage (`let_go`).
        """
        if self.shared is None:
            return self.path / "training" / name
        digest = hashlib.blake2b(
            json.dumps(identity, sort_keys=True, default=str).encode(), digest_size=6
        ).hexdigest()
        if self.writable:
            self.shared.mkdir(parents=True, exist_ok=True)
            self._places.append(Lock.wait(self.shared / f"{digest}.lock"))
        return self.shared / digest

    def let_go(self) -> None:
        """Let the other processes of a sweep have the places this stage asked for."""
        while self._places:
            self._places.pop().release()

    def _repr_html_(self) -> str:
        """What a notebook shows: the report, in a frame of its own (its styles are for a page)."""
        page = self.path / "report.html"
        if not page.is_file():
            return f"<p>{html.escape(str(self.path))}: no report yet</p>"
        text = html.escape(page.read_text())
        style = "width:100%;height:40em;border:1px solid #ccc"
        return f'<iframe sandbox srcdoc="{text}" style="{style}"></iframe>'

    def stage_done(self, name: str) -> bool:
        """True once `mark_done` was called for the stage, in this session or an earlier one."""
        return self._marker(name).is_file()

    def mark_done(self, name: str, summary: dict[str, Any] | None = None) -> None:
        """Mark a stage finished.

        Args:
            summary: facts later stages and reports read: JSON-able, and `Path`, which is kept as
                seen from the run's folder, so that it holds when that is moved or read from
                another working folder.
        """
        if self.writable:
            kept = _paths_out(summary or {}, self.path)
            write_json(self._marker(name), {"stage": name, "finished": _now(), "summary": kept})

    @property
    def finished(self) -> bool:
        """True once the whole recipe went through."""
        return (self.path / "finished.json").is_file()

    def finish(self) -> None:
        """Mark the whole recipe as gone through (``sweep`` skips such runs)."""
        if self.writable:
            write_json(self.path / "finished.json", {"finished": _now()})

    def summary(self, name: str) -> dict[str, Any]:
        """What a finished stage left, paths as text. Raises UserError when it is not finished."""
        if not self.stage_done(name):
            words = [f"{self.config.kind}.{name}", *self.overrides, "--out", str(self.path)]
            raise UserError(
                f"stage {name!r} of {self.path} is not done; run it first: latentsmith train "
                + shlex.join(words)
            )
        return _paths_in(json.loads(self._marker(name).read_text())["summary"], self.path)

    def _marker(self, name: str) -> Path:
        return self.path / "stages" / f"{name}.json"

    def _begin_or_resume(self) -> None:
        file = self.path / "config.yaml"
        now = {"started": _now(), **environment()}
        if file.exists():
            self._refuse_changes(from_yaml(file.read_text(), where=file))
            (self.path / "failed.json").unlink(missing_ok=True)
            manifest = self.manifest
            manifest["sessions"] = [*manifest.get("sessions", []), now]
            write_json(self.path / "manifest.json", manifest)
            return
        write_json(self.path / "manifest.json", {"recipe": self.config.kind, "sessions": [now]})
        _write(self.path / "overrides.txt", "".join(f"{o}\n" for o in self.overrides))
        # Last: a folder with a config.yaml is a run.
        _write(file, f"# Every setting of this {self.config.kind} run.\n" + to_yaml(self.config))

    def _refuse_changes(self, old: RecipeConfig) -> None:
        if old.kind != self.config.kind:
            raise UserError(
                f"{self.path} holds a run of {old.kind}, not of {self.config.kind}. "
                "Give another folder with --out FOLDER."
            )
        changes = [change for change in diff(old, self.config) if not _spread(change[0])]
        if changes:
            lines = [f"  {key}: {a!r} there, {b!r} now" for key, a, b in changes]
            raise UserError(
                "\n".join(
                    [
                        f"{self.path} was started with other settings:",
                        *lines,
                        "Keep both with --out ANOTHER_FOLDER, or start anew with --fresh "
                        "(the old run is moved aside).",
                    ]
                )
            )


def _spread(key: str) -> bool:
    """Whether a setting says where numbers lie, and not which: as with the number of processes, a
    run may go on under another."""
    return key.rsplit(".", 1)[-1] == "shard"


def _paths_out(value: Any, folder: Path) -> Any:
    """JSON-able: each `Path` as ``{"path": <as seen from folder>}``."""
    if isinstance(value, Path):
        return {"path": os.path.relpath(value, folder)}
    if isinstance(value, dict):
        return {key: _paths_out(v, folder) for key, v in value.items()}
    return [_paths_out(v, folder) for v in value] if isinstance(value, list) else value


def _paths_in(value: Any, folder: Path) -> Any:
    """What `_paths_out` was given, paths as text."""
    if isinstance(value, dict):
        if value.keys() == {"path"}:
            return os.path.normpath(folder / value["path"])
        return {key: _paths_in(v, folder) for key, v in value.items()}
    return [_paths_in(v, folder) for v in value] if isinstance(value, list) else value


def _is_run(path: Path) -> bool:
    """True for a run folder, or one whose very first start was cut short."""
    return (path / "config.yaml").is_file() or (path / "run.lock").is_file()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as tmp:
        tmp.write_text(text)
