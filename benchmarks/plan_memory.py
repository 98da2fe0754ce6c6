"""Peak memory as ``latentsmith plan`` says it, and as it is: the same steps, run on the CPU.

Each row is a process of its own. It runs one small step first (what libraries load and keep), then
measures how far its resident memory rises while the task is built and trained two steps. glibc is
told to give every large block back at once, so that resident is what is allocated (training keeps
freed memory instead, see ``utils/memory.py``: there a tenth to a fourth more stays resident).

    python benchmarks/plan_memory.py [--write]
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentsmith.config.compose import compose
from latentsmith.planning.count import AUTOCAST, count_step
from latentsmith.planning.stage import Training
from latentsmith.training.ema import EMA
from latentsmith.training.parts import check_objectives, trainable, training_mode
from latentsmith.training.stepper import Stepper
from latentsmith.training.task import StepContext, Task
from latentsmith.utils.files import write_json

RESULTS = Path(__file__).parent / "results"
EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

CASES = [
    ("mmreg", "generator", ["scale=laptop"], 128),
    ("mmreg", "regularized", ["scale=laptop"], 64),
    ("mmreg", "regularized", ["scale=laptop", "finetune.micro_batch=16"], 16),
    ("urepa", "aligned", ["scale=laptop"], 64),
    ("urepa", "aligned", ["scale=laptop", "unet.lora.scope=mid"], 64),
    ("psvae", "pixel", ["scale=laptop"], 8),
    ("psvae", "dit", ["scale=laptop"], 32),
    ("field", "autoencoder", ["scale=laptop"], 8),
    ("textlatent", "one_shot", ["scale=laptop"], 64),
]
"""Recipe, stage, settings, micro-batch."""


def stage_of(recipe: str, name: str, words: list[str]) -> Training:
    """A recipe's stage."""
    return next(s for s in compose(recipe, words).plan().trainings if s.name == name)


def filled(task: Task) -> Task:
    """Parameters and buffers on meta made real, small random numbers."""
    for owner in task.modules():
        for tensor in (*owner._parameters.values(), *owner._buffers.values()):
            if tensor is None or not tensor.is_meta:
                continue
            made = torch.zeros(tensor.shape, dtype=tensor.dtype)
            if made.is_floating_point():
                made.normal_(std=0.02)
            made.requires_grad_(tensor.requires_grad)
            if isinstance(tensor, nn.Parameter):
                made._is_param = True  # pyright: ignore[reportAttributeAccessIssue]
            torch.utils.swap_tensors(tensor, made)
    return task


def batch_of(stage: Training, n: int) -> dict[str, Any]:
    """A batch with numbers in it."""
    found = stage.batch(n)
    return {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in found.items()}


def train(stage: Training, n: int, steps: int) -> None:
    """What `latentsmith.training.engine` does, ``micros`` micro-batches of ``n``."""
    cfg, task = stage.train, filled(stage.build())
    training_mode(task)
    objectives = check_objectives(task)
    steppers = [Stepper(o, cfg, torch.device("cpu")) for o in objectives]
    params = trainable(task)
    ema = EMA(params, cfg.ema) if cfg.ema else None
    micros = cfg.batch_size // n if cfg.micro_batch else 1
    dtype = AUTOCAST.get(cfg.precision)
    for _ in range(steps):
        for objective, stepper in zip(objectives, steppers, strict=True):
            stepper.zero_grad()
            seen = max(cfg.samples // 2, objective.starts_at)
            ctx = StepContext(seen, cfg.samples, seed=0, micros=micros)
            batches = [batch_of(stage, n) for _ in range(micros)]
            if micros > 1:
                task.look_ahead(objective.name, batches, ctx)
            for k, batch in enumerate(batches):
                ctx.micro = k
                with torch.autocast("cpu", dtype) if dtype else nullcontext():
                    loss = task(objective.name, batch, ctx)["loss"]
                (loss / micros).backward()
            stepper.clip()
            stepper.finish(seen, skip=False)
        if ema is not None:
            ema.update()


def resident(key: str) -> int:
    """Bytes: VmRSS now, VmHWM at most since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def measure(recipe: str, name: str, words: list[str], n: int) -> dict[str, Any]:
    """One row: bytes said and measured."""
    stage = stage_of(recipe, name, words)
    train(stage, 2, 1)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    train(stage, n, 2)
    measured = resident("VmHWM") - before
    micros = stage.train.batch_size // n if stage.train.micro_batch else 1
    said = count_step(stage, [max(2, n // 4), n], micros).peak(n)
    return {"recipe": recipe, "stage": name, "words": words, "micro": n, "said": said,
            "measured": measured}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| recipe | stage | settings | micro-batch | said MB | measured MB | said / measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        said, measured = row["said"] / 1e6, row["measured"] / 1e6
        lines.append(
            f"| {row['recipe']} | {row['stage']} | `{' '.join(row['words'])}` | {row['micro']} | "
            f"{said:,.0f} | {measured:,.0f} | {said / measured:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case is not None:
        print(json.dumps(measure(*CASES[args.case])))
        return
    rows = []
    for case in range(len(CASES)):
        words = [sys.executable, __file__, "--case", str(case)]
        done = subprocess.run(words, capture_output=True, text=True, env=os.environ | EXACT)
        if done.returncode:
            sys.exit(f"{CASES[case]}:\n{done.stderr}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    if args.write:
        head = (
            f"# Memory as planned and as measured\n\ntorch {torch.__version__}, "
            f"{platform.machine()}. Made by `python benchmarks/plan_memory.py --write`, which says "
            "how.\n\n"
        )
        (RESULTS / "plan_memory_cpu.md").write_text(head + table(rows))
        write_json(RESULTS / "plan_memory_cpu.json", rows)


if __name__ == "__main__":
    main()
