"""What a run ran on: versions, git state, hardware, threads."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import latentsmith
from latentsmith import plugins

PACKAGES = ("torch", "numpy", "diffusers", "transformers", "accelerate", "safetensors", "datasets")
"""Packages whose version can move a result."""


def environment() -> dict[str, Any]:
    """JSON-able facts about this process and machine; no names of people or machines."""
    found = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions(),
        "git": git_state(Path(latentsmith.__file__).parent),
        "hardware": hardware(),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
    }
    brought = {p.name: git_state(p.folder) for p in plugins.load() if p.folder is not None}
    return {**found, "plugins": brought} if brought else found


def versions() -> dict[str, str]:
    """Versions of Python, this package and `PACKAGES` (those installed)."""
    found = {"python": platform.python_version(), "latentsmith": latentsmith.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout ``folder`` lies in and whether it was changed since; None when the
    package was installed, not checked out."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changed)}


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, threads torch will use, memory, GPUs."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "gpus": gpus,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
