"""``latentsmith doctor``: what works on this machine, what is missing, and what to do about it."""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from latentsmith.utils.needs import Need

HELP = "say what works on this machine and what each recipe lacks"
LOW_DISK_GIB = 5.0
"""Free space below which a warning is due: checkpoints of small runs and caches fit in this."""

OPTIONAL = {
    "wandb": ("tracker wandb", "wandb"),
    "mlflow": ("tracker mlflow", "mlflow"),
    "ray": ("cache with engine=ray", "ray"),
    "uvicorn": ("latentsmith explore", "ui"),
    "onnxruntime": ("export --onnx", "onnx"),
}
"""Package → what for, and the extra that brings it."""


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis. ``bad`` makes the exit code 1."""

    state: Literal["ok", "note", "warn", "bad"]
    text: str


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("doctor", help=HELP, description=HELP)
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="only this recipe's needs")
    parser.set_defaults(run=doctor)


def doctor(args: argparse.Namespace) -> int:
    """Print findings. Exit code 1 when something that every recipe needs is broken."""
    sections = {
        "packages": [*packages(), *traps()],
        "plug-ins": list(plugins()),  # before anything asks a registry
        "machine": [*cores(), *gpus(), *disk(Path.cwd()), *hub()],
        "scans": list(scans()),
        "recipes": list(recipes(args.recipe)),
    }
    bad = 0
    for title, findings in sections.items():
        print(f"{title}:" if findings else f"{title}: none")
        for finding in findings:
            print(f"  {finding.state:4}  {finding.text}")
            bad += finding.state == "bad"
    print(f"{bad} problem(s) to mend" if bad else "no problem that stops every recipe")
    print(
        "memory, disk and time that a preset takes, and on which GPU: "
        f"latentsmith plan {args.recipe or 'RECIPE'} scale=paper"
    )
    return 1 if bad else 0


def scans() -> Iterator[Finding]:
    """Which implementations of the state-space scans can run here."""
    from latentsmith.backbones.scan import available

    for backend in available():
        lacking = "; ".join(f"{scan}: {why}" for scan, why in backend.lacking.items())
        state = "note" if backend.lacking else "ok"
        yield Finding(state, f"{backend.name}: {lacking or backend.help}")


def plugins() -> Iterator[Finding]:
    """Plug-ins that were found, and what keeps one from being imported."""
    from latentsmith import plugins as found
    from latentsmith.errors import UserError

    try:
        found.load()
    except UserError as error:
        yield Finding("bad", str(error))
    for plugin in found.load():
        yield Finding("ok", f"{plugin.name} ({plugin.origin})")


def packages() -> Iterator[Finding]:
    """Python, this package and what it depends on."""
    import latentsmith

    python = platform.python_version()
    state = "ok" if sys.version_info >= (3, 11) else "bad"
    yield Finding(state, f"Python {python}" + ("" if state == "ok" else ": 3.11 or newer needed"))
    yield Finding("ok", f"latentsmith {latentsmith.__version__}")
    shown, missing = [], []
    for name in _dependencies():
        try:
            shown.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("ok", ", ".join(shown))
    if missing:
        yield Finding(
            "bad", f"not installed: {', '.join(missing)}: pip install {' '.join(missing)}"
        )
    for name, (use, extra) in OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            yield Finding("note", f"without {name} (for {use}): pip install 'latentsmith[{extra}]'")


def _dependencies() -> list[str]:
    """Names of the required packages, from the installed metadata; else those that matter most."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("latentsmith") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout, not installed
        return ["torch", "numpy", "diffusers", "transformers", "safetensors", "hydra-core"]
    parsed = [Requirement(line) for line in lines]
    return [r.name for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]


def traps() -> Iterator[Finding]:
    """Combinations of packages known to break."""
    if importlib.util.find_spec("torchvision") is not None:
        problem = _import_problem("torchvision")
        if problem:
            yield Finding(
                "bad",
                f"torchvision does not fit this torch ({problem}); diffusers and transformers "
                "import it and break: pip uninstall torchvision",
            )
        else:
            yield Finding("ok", "torchvision (not needed) fits this torch")
    elif importlib.util.find_spec("torch_fidelity") is not None:
        yield Finding(
            "warn",
            "torch-fidelity without torchvision breaks torchmetrics' image metrics: "
            "pip uninstall torch-fidelity",
        )
    for name in ("diffusers", "transformers"):
        problem = _import_problem(name)
        if problem:
            yield Finding("bad", f"{name} cannot be imported: {problem}")


def _import_problem(name: str) -> str | None:
    """The first line of what goes wrong on import, if anything does."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken binary raises anything
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def cores() -> Iterator[Finding]:
    """Processor, cores, threads, and whether they will get in each other's way."""
    from latentsmith.config.manifest import hardware
    from latentsmith.utils.threads import thread_warning

    facts = hardware()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    yield Finding(
        "ok",
        f"{facts['processor']}, {facts['cores']} core(s), {facts['threads']} torch thread(s), "
        f"load {load:.1f}, {facts['memory_gib']} GiB memory",
    )
    warning = thread_warning()
    if warning:
        yield Finding("warn", warning)


def gpus() -> Iterator[Finding]:
    """CUDA devices, or why there are none."""
    import torch

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(i)
            yield Finding("ok", f"GPU {i}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    elif torch.version.cuda is None:
        yield Finding("note", "no GPU: this torch is built for the CPU only")
    else:
        yield Finding("note", f"no GPU found by torch (built for CUDA {torch.version.cuda})")


def disk(folder: Path) -> Iterator[Finding]:
    """Room for runs and caches, and the right to write there."""
    free = shutil.disk_usage(folder).free / 2**30
    state = "ok" if free >= LOW_DISK_GIB else "warn"
    yield Finding(state, f"{free:.0f} GiB free in {folder} (runs are written to {folder / 'runs'})")
    if not os.access(folder, os.W_OK):
        yield Finding("bad", f"{folder} cannot be written: change folder or give --out")


def hub() -> Iterator[Finding]:
    """The Hugging Face cache."""
    from latentsmith.utils.needs import hub_state

    yield Finding("note", f"Hugging Face cache: {hub_state()}")


def recipes(only: str | None) -> Iterator[Finding]:
    """What each scale of each recipe lacks, then what each choice it offers lacks.

    Raises UserError for an unknown recipe.
    """
    from latentsmith.config.compose import compose, nodes_of
    from latentsmith.config.fields import settings_of
    from latentsmith.config.nodes import group_of
    from latentsmith.errors import UserError
    from latentsmith.recipes.base import RECIPES
    from latentsmith.utils.needs import needs_of

    names = RECIPES.names() if only is None else [RECIPES[only].name]
    for recipe in names:
        for scale in nodes_of(recipe).presets_of("scale"):
            try:
                config = compose(recipe, [f"scale={scale}"])
            except UserError as error:
                yield Finding("bad", str(error))
            else:
                yield from _judge(f"{recipe} scale={scale}", list(needs_of(config)))
    registries = {g: r for name in names for g, r in nodes_of(name).registries.items()}
    for registry in registries.values():
        for entry in registry:
            if not any(s.required for s in settings_of(entry.config).values()):
                found = list(needs_of(entry.config()))
                if found:
                    yield from _judge(f"{group_of(registry)}={entry.name}", found)


def _judge(label: str, needs: "list[Need]") -> Iterator[Finding]:
    lacking = {need.what: need for need in needs if not need.ok}
    if not lacking:
        yield Finding("ok", f"{label}: nothing missing")
    for need in lacking.values():
        yield Finding("warn", f"{label}: no {need.what}: {need.how}")
