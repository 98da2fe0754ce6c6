"""Drawing tokens of a wide vocabulary: a few places at a time against all at once.

    python benchmarks/token_draws.py [--places 4096] [--vocabulary 8196] [--rounds 7] [--write]

The limit is memory: float64 log-probabilities, their Gumbel noise and what lies between are M x V
numbers that are written and read again by every operation, and fresh pages each time. `Odds.guess`
takes as many places at once as stay in a core's cache. Both draw the same tokens, which is checked.
Given are medians over rounds in turns, and the median over rounds of (at once / a few of the same
round); peak memory is that of a process of its own for each, less what the logits take.
"""

import argparse
import multiprocessing
import platform
import statistics
import time
from pathlib import Path

import torch

from latentsmith.sampling.text_latent import tokens
from latentsmith.utils.files import atomic_path, write_json
from latentsmith.utils.memory import keep_heap

RESULTS = Path(__file__).parent / "results"
WAYS = {"all at once": 2**62, "a few at a time": tokens.CPU_NUMBERS}


def odds(args: argparse.Namespace) -> tokens.Odds:
    """Logits of a network that is fairly sure."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(args.places, args.vocabulary, generator=rng).mul_(3)
    return tokens.Odds(logits, torch.arange(args.places))


def drawn(made: tokens.Odds, way: str) -> tuple[torch.Tensor, float]:
    """Tokens [M], seconds."""
    tokens.CPU_NUMBERS = WAYS[way]
    begun = time.perf_counter()
    found, _ = made.guess(
        tokens.TextSamplerConfig(temperature=0.7), torch.Generator().manual_seed(1)
    )
    return found, time.perf_counter() - begun


def peak(args: argparse.Namespace, way: str, told: "multiprocessing.Queue[float]") -> None:
    """MiB above the logits, of a process that draws once."""
    made = odds(args)
    before = status("VmRSS")
    drawn(made, way)
    told.put((status("VmHWM") - before) / 1024)


def status(name: str) -> int:
    """KiB, as Linux tells them of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def peaks(args: argparse.Namespace) -> dict[str, float]:
    """way → MiB."""
    context, found = multiprocessing.get_context("spawn"), {}
    for way in WAYS:
        told: multiprocessing.Queue[float] = context.Queue()
        process = context.Process(target=peak, args=(args, way, told))
        process.start()
        found[way] = told.get()
        process.join()
    return found


def main() -> None:
    """Measure, print, perhaps write."""
    parser = argparse.ArgumentParser(description="Drawing tokens of a wide vocabulary.")
    parser.add_argument("--places", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=8196)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    keep_heap()  # as in a training: what is freed is not given back to the system
    made = odds(args)
    first = [drawn(made, way)[0] for way in WAYS]  # not counted
    assert torch.equal(*first), "the ways draw different tokens"
    rounds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(args.rounds):
        for way in list(WAYS) if number % 2 else list(WAYS)[::-1]:
            rounds[way].append(drawn(made, way)[1])
    memory = peaks(args)
    whole, few = rounds.values()
    ratio = statistics.median(a / b for a, b in zip(whole, few, strict=True))
    table = [
        "# Drawing tokens of a wide vocabulary",
        "",
        f"{args.places} places of {args.vocabulary} tokens, temperature 0.7, "
        f"{torch.get_num_threads()} thread(s), {platform.machine()}, torch {torch.__version__}; "
        f"median over {args.rounds} interleaved rounds.",
        "",
        "| drawn | seconds | memory above the logits, MiB |",
        "|---|---|---|",
        *(f"| {way} | {statistics.median(rounds[way]):.3f} | {memory[way]:.0f} |" for way in WAYS),
        "",
        f"A few at a time is {ratio:.1f} times as fast.",
    ]
    print("\n".join(table))
    if args.write:
        with atomic_path(RESULTS / "token_draws_cpu.md") as tmp:
            tmp.write_text("\n".join(table) + "\n")
        write_json(RESULTS / "token_draws_cpu.json", {"rounds": rounds, "peak_mib": memory})


if __name__ == "__main__":
    main()
