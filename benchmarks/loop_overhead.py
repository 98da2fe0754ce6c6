"""What the training loop costs beside the bare forward, backward and step of the same model.

    python benchmarks/loop_overhead.py [--width 48] [--batch 64] [--steps 150] [--rounds 7]

Both loops train the same small convolutional autoencoder on the same batches with the same AdamW,
in turns within one process, so that whatever else the machine does hits both. Three settings of
`fit` are compared: bare (no clipping, no average), the defaults, and the defaults with EMA. The
overhead of a setting is the median over rounds of (its time / bare time of the same round); the
files and the start-up of `fit` (writing two checkpoints, opening files) are timed out of it by
taking the time between two batches asked for. Prints a markdown table; writes it with all rounds
to benchmarks/results/loop_overhead.{md,json}.
"""

import argparse
import contextlib
import io
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import fit
from latentsmith.training.optim import adamw
from latentsmith.training.task import Batch, Objective, StepContext, Task
from latentsmith.utils.files import atomic_path, write_json
from latentsmith.utils.memory import keep_heap

RESULTS = Path(__file__).parent / "results"
SETTINGS: dict[str, dict[str, Any]] = {
    "fit, bare (no clipping)": {"clip": None},
    "fit, defaults (clipping, guard, records)": {},
    "fit, defaults + EMA": {"ema": 0.999},
    "fit, defaults + EMA, a record every step": {"ema": 0.999, "log_every": 1},
}


class Autoencoder(Task):
    """1×28×28 → 4×7×7 → 1×28×28."""

    def __init__(self, width: int):
        super().__init__()
        torch.manual_seed(0)
        w = width
        self.net = nn.Sequential(
            *(nn.Conv2d(1, w, 3, 2, 1), nn.GroupNorm(8, w), nn.SiLU()),
            *(nn.Conv2d(w, 2 * w, 3, 2, 1), nn.GroupNorm(8, 2 * w), nn.SiLU()),
            *(nn.Conv2d(2 * w, 4, 1), nn.Conv2d(4, 2 * w, 1), nn.GroupNorm(8, 2 * w), nn.SiLU()),
            *(nn.ConvTranspose2d(2 * w, w, 4, 2, 1), nn.GroupNorm(8, w), nn.SiLU()),
            nn.ConvTranspose2d(w, 1, 4, 2, 1),
        )

    def objectives(self) -> list[Objective]:
        return [Objective("autoencoder", list(self.net.parameters()))]

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        error = self.net(batch["image"]) - batch["image"]
        mse = error.square().mean()
        return {"loss": mse + 0.1 * error.abs().mean(), "mse": mse.detach()}


class Clocked:
    """Ready-made batches; notes when each is asked for."""

    fingerprint: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, batch_size: int):
        noise = torch.Generator().manual_seed(1)
        image = torch.rand(batch_size, 1, 28, 28, generator=noise)
        self.batch = {"index": torch.arange(batch_size), "image": image}
        self.asked: list[float] = []

    def iterate(self, start: int) -> Iterator[Batch]:
        while True:
            self.asked.append(time.perf_counter())
            yield self.batch

    def seconds_per_step(self, warmup: int) -> float:
        """Median time between two requests."""
        pairs = zip(self.asked[warmup:], self.asked[warmup + 1 :], strict=False)
        return statistics.median(later - earlier for earlier, later in pairs)


def time_bare(args: argparse.Namespace) -> float:
    """Forward, backward, step and nothing else."""
    task, batches = Autoencoder(args.width).train(), Clocked(args.batch)
    optimizer = adamw(list(task.parameters()), TrainConfig())
    for _, batch in zip(range(args.steps), batches.iterate(0), strict=False):
        optimizer.zero_grad(set_to_none=True)
        error = task.net(batch["image"]) - batch["image"]
        loss = error.square().mean() + 0.1 * error.abs().mean()
        loss.backward()
        optimizer.step()
    return batches.seconds_per_step(args.warmup)


def time_fit(args: argparse.Namespace, settings: dict[str, Any]) -> float:
    """The same through `fit`."""
    samples, batches = args.steps * args.batch, Clocked(args.batch)
    defaults = {"log_every": 10 * args.batch, "save_every": samples, "trackers": []}
    cfg = TrainConfig(samples=samples, batch_size=args.batch, **(defaults | settings))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        fit(Autoencoder(args.width), batches, cfg, Path(folder))
    return batches.seconds_per_step(args.warmup)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All rounds; the order within a round rotates, so that no setting is always first."""
    runs = {"bare loop": lambda: time_bare(args)}
    runs |= {name: (lambda s=s: time_fit(args, s)) for name, s in SETTINGS.items()}
    names, times = list(runs), {name: [] for name in runs}
    for r in range(args.rounds):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            times[name].append(runs[name]())
    bare = times["bare loop"]
    rows = [
        {
            "setting": name,
            "ms_per_step": 1e3 * statistics.median(values),
            "ratio": statistics.median(v / b for v, b in zip(values, bare, strict=True)),
            "rounds_ms": [1e3 * v for v in values],
        }
        for name, values in times.items()
    ]
    machine = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    parameters = sum(p.numel() for p in Autoencoder(args.width).parameters())
    return {"args": dict(vars(args)), "parameters": parameters, **machine, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    args = result["args"]
    lines = [
        "# Loop overhead",
        "",
        f"Convolutional autoencoder of {result['parameters']:,} parameters on 28×28 images, batch "
        f"{args['batch']}, {result['threads']} thread(s), torch {result['torch']}; median over "
        f"{args['rounds']} interleaved rounds of {args['steps']} steps. Goal: at most 1.05.",
        "",
        "| setting | ms per step | times bare |",
        "|---|---|---|",
        *(
            f"| {r['setting']} | {r['ms_per_step']:.2f} | {r['ratio']:.3f} |"
            for r in result["rows"]
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    keep_heap()
    result = measure(args)
    result["args"].pop("out")
    print(table(result))
    write_json(args.out / "loop_overhead.json", result)
    with atomic_path(args.out / "loop_overhead.md") as tmp:
        tmp.write_text(table(result))


if __name__ == "__main__":
    main()
