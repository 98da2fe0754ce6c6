"""Training step (forward, backward, AdamW) of text and latents: one tensor path against a branch
for each mode.

    python benchmarks/text_latent_step.py              # tiny and small, CPU, in turns
    python benchmarks/text_latent_step.py --write      # keep the result

Both train the same network on the same draws: a batch whose samples are in random modes (two fifths
text from latent, two fifths latent from text, the rest both at once). Ours runs the batch once,
whatever its modes, and computes logits at masked places alone. The plain way runs the samples of
each mode apart, in a loop, and computes the logits of all L places before it takes the masked ones.
That they compute the same loss and the same gradient is checked before timing.

Given are the best and the median of their turns, tokens a second (B L over the median), and the
median over rounds of (plain / ours of the same round), so that other load falls on both alike.
"""

import argparse
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.backbones.mmdit import MMDiTConfig, Size
from latentsmith.diffusion.masked import MaskedText
from latentsmith.diffusion.text_latent.config import TextLatentConfig
from latentsmith.diffusion.text_latent.modes import L2T, T2L, passes
from latentsmith.diffusion.text_latent.noised import Noised, Rows
from latentsmith.diffusion.text_latent.task import TextLatentTask, named
from latentsmith.training.task import Batch, StepContext
from latentsmith.utils.files import atomic_path, write_json
from latentsmith.utils.memory import keep_heap

RESULTS = Path(__file__).parent / "results"
LATENT = 384
"""Numbers of a MiniLM sentence embedding."""

#        size   vocabulary length batch
CASES: list[tuple[Size, int, int, int]] = [
    ("tiny",   4_096,     32,    64),
    ("small",  8_192,     32,    16),
]  # fmt: skip


def batch(vocabulary: int, length: int, count: int) -> Batch:
    """Texts of 3 to ``length`` tokens, the rest EOS, as in training, and random latents."""
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, vocabulary - 1, (count, length), generator=rng)
    ends = torch.randint(3, length, (count, 1), generator=rng)
    return {
        "index": torch.arange(count),
        "tokens": torch.where(torch.arange(length) < ends, tokens, 1),
        "latents": torch.randn(count, LATENT, generator=rng),
    }


def make(size: Size, vocabulary: int, length: int) -> TextLatentTask:
    """A task with weights a trained network could have: at zero gates half the work is skipped."""
    network = MMDiTConfig(size=size).build(vocabulary, length, (LATENT,))
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * 0.02)
    return TextLatentTask(network, TextLatentConfig(), MaskedText(vocabulary, vocabulary - 1, 1, 0))


def ours(task: TextLatentTask, data: Batch, ctx: StepContext) -> Tensor:
    """The task's own loss."""
    return task("text_latent", data, ctx)["loss"]


def plain(task: TextLatentTask, data: Batch, ctx: StepContext) -> Tensor:
    """The same loss, a mode at a time, from logits of all places."""
    model, rows = task.model, Rows.of(data, task.model)
    ((stream, modes),) = passes(task.config.modes, len(rows), 0, ctx.noise("modes"))
    shown = task._noised(rows, modes, named(ctx, stream))
    texts, latents = [], []
    for mode in range(3):
        part = modes == mode
        if not bool(part.any()):
            continue
        own = Noised(**{n: getattr(shown, n)[part] for n in Noised.__dataclass_fields__})
        out = model(
            model.process.hide(own.tokens, own.masked), own.z, own.t_text, own.t_lat,
            positions=None if mode == T2L else torch.arange(own.tokens.numel()),
            latent=mode != L2T,
        )  # fmt: skip
        if out.logits is not None:
            losses = model.process.cross_entropies(out.logits, own.tokens.flatten())
            texts.append(losses[own.masked.flatten()])
        if out.latent is not None:
            latents.append((task._latent(out.latent, own)[0], len(own.z)))
    count = sum(n for _, n in latents)
    return torch.cat(texts).mean() + sum(loss * n for loss, n in latents) / count


def measure(case: tuple[Size, int, int, int], rounds: int) -> dict[str, Any]:
    """Both ways in turns."""
    size, vocabulary, length, count = case
    data, ways = batch(vocabulary, length, count), {"ours": ours, "plain": plain}
    steps: dict[str, Callable[[int], float]] = {}
    firsts = {}
    for name, way in ways.items():
        task = make(size, vocabulary, length)
        firsts[name] = first_step(task, way, data)
        optimizer = torch.optim.AdamW(task.network.parameters(), lr=1e-5, fused=True)
        steps[name] = step_of(task, way, data, optimizer)
    for a, b in zip(firsts["ours"], firsts["plain"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for turn in range(-2, rounds):  # two to warm up
        random.Random(turn).shuffle(order)
        for name in order:
            seconds = steps[name](turn)
            if turn >= 0:
                times[name].append(seconds)
    tokens = count * length
    parameters = sum(p.numel() for p in make(size, vocabulary, length).network.parameters())
    rows = [
        {
            "way": name,
            "best_ms": 1e3 * min(t),
            "median_ms": 1e3 * statistics.median(t),
            "tokens_per_second": tokens / statistics.median(t),
            "times_ours": statistics.median(a / b for a, b in zip(t, times["ours"], strict=True)),
            "rounds_ms": [1e3 * s for s in t],
        }
        for name, t in times.items()
    ]
    title = (
        f"{size}, {parameters:,} parameters, vocabulary {vocabulary:,}, {count} x {length} tokens"
    )
    return {"title": title, "rows": rows}


def first_step(task: TextLatentTask, way: Callable[..., Tensor], data: Batch) -> list[Tensor]:
    """Loss and gradients of the first step."""
    loss = way(task, data, StepContext(0, 1, seed=0))
    loss.backward()
    grads = [p.grad for p in task.network.parameters() if p.grad is not None]
    task.network.zero_grad(set_to_none=True)
    return [loss.detach(), *grads]


def step_of(
    task: TextLatentTask, way: Callable[..., Tensor], data: Batch, optimizer: torch.optim.Optimizer
) -> Callable[[int], float]:
    """One training step of a number, timed: other draws each time, the same for both ways."""

    def step(number: int) -> float:
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        way(task, data, StepContext(number + 2, 100, seed=0)).backward()
        optimizer.step()
        return time.perf_counter() - begin

    return step


def markdown(result: dict[str, Any]) -> str:
    """The result as a document."""
    text = (
        "# Training step of text and latents\n\n"
        f"{result['threads']} thread(s), torch {result['torch']}, {result['machine']}, load "
        f"average {result['load'][0]:.1f} at the end. Made by `{result['command']}`, "
        "which says how.\n"
    )
    for case in result["cases"]:
        text += f"\n## {case['title']}\n\n| way | best ms | median ms | tokens/s | times ours |\n"
        text += "|---|---|---|---|---|\n"
        for r in case["rows"]:
            text += f"| {r['way']} | {r['best_ms']:.1f} | {r['median_ms']:.1f} "
            text += f"| {r['tokens_per_second']:,.0f} | {r['times_ours']:.2f} |\n"
    return text


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="+", default=[case[0] for case in CASES])
    parser.add_argument("--write", action="store_true", help="keep the result")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_heap()
    cases = [measure(case, args.rounds) for case in CASES if case[0] in args.sizes]
    result = {
        "command": " ".join(["python benchmarks/text_latent_step.py", *sys.argv[1:]]),
        "threads": args.threads,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "load": os.getloadavg(),
        "cases": cases,
    }
    print(markdown(result))
    if args.write:
        stem = RESULTS / "text_latent_step_cpu"
        write_json(stem.with_suffix(".json"), result)
        with atomic_path(stem.with_suffix(".md")) as tmp:
            tmp.write_text(markdown(result))


if __name__ == "__main__":
    main()
