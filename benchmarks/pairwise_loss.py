"""Forward + backward of 1 − correlation(pair distances): ours against the usual ways.

    python benchmarks/pairwise_loss.py                      # B = 64 … 4096, D = 4096, one thread
    python benchmarks/pairwise_loss.py --sizes 64 128 --seconds 2

Times: all methods of one size take turns in one process, and the best and the median of their
turns are given, so that other load falls on all alike. Memory: a fresh process for each method,
peak resident memory during one call above that before it (on CUDA: the allocator's peak); inputs
are not counted. ``limit`` is the two matrix products no exact method can do without: [B, D] x
[D, B] and [B, B] x [B, D], 4 B² D floating-point operations. (A symmetric forward needs half of
the first, so the limit can be beaten.) A method whose call would take longer than ``--longest``
or more than ``--memory`` is left out and shown as "-".
"""

import argparse
import datetime
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from latentsmith.losses.correlation import CorrelationLoss
from latentsmith.losses.pairwise import pairwise_distances
from latentsmith.utils.files import atomic_path, write_json

Loss = Callable[[Tensor, Tensor], Tensor]
"""(latents [B, D], reference distances [B, B]) → scalar."""


def _correlation(d: Tensor, r: Tensor) -> Tensor:
    """1 − Pearson by plain autograd, d and r [P]."""
    a, b = d - d.mean(), r - r.mean()
    return 1 - (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


def _upper(d: Tensor) -> Tensor:
    i, j = torch.triu_indices(len(d), len(d), 1, device=d.device)
    return d[i, j]


def ours(z: Tensor, r: Tensor) -> Tensor:
    """The library's ``pearson``."""
    return CorrelationLoss(gather=False).compare(pairwise_distances(z), r)


def cdist(z: Tensor, r: Tensor) -> Tensor:
    """``torch.cdist`` (by matrix products above 25 rows) + autograd."""
    return _correlation(_upper(torch.cdist(z, z)), _upper(r))


def pdist(z: Tensor, r: Tensor) -> Tensor:
    """``F.pdist`` (plain differences) + autograd."""
    return _correlation(F.pdist(z), _upper(r))


def broadcast(z: Tensor, r: Tensor) -> Tensor:
    """All differences at once, [B, B, D]; the usual first attempt."""
    squares = (z[:, None] - z[None]).square().sum(2)
    return _correlation(_upper(squares + torch.eye(len(z), device=z.device)).sqrt(), _upper(r))


METHODS: dict[str, Loss] = {"ours": ours, "cdist": cdist, "pdist": pdist, "broadcast": broadcast}


def inputs(batch: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    """Latents with a graph to be made on, and distances of 768-d references."""
    rng = torch.Generator().manual_seed(batch)
    z = torch.randn(batch, dim, generator=rng).to(device).requires_grad_()
    return z, pairwise_distances(torch.randn(batch, 768, generator=rng).to(device))


def call(method: str, z: Tensor, r: Tensor) -> None:
    """One forward and backward, to the end."""
    if method == "limit":
        with torch.no_grad():
            (z @ z.T) @ z
    else:
        torch.autograd.grad(METHODS[method](z, r), z)
    if z.is_cuda:
        torch.cuda.synchronize()


def seconds(method: str, z: Tensor, r: Tensor) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call(method, z, r)
    return time.perf_counter() - start


def fits(method: str, batch: int, dim: int, memory: float) -> bool:
    """Whether the arrays of the naive broadcast (values and gradients of [B, B, D]) fit."""
    return method != "broadcast" or 3 * 4 * batch**2 * dim < memory * 2**30


def measure_times(args: argparse.Namespace) -> dict[int, dict[str, dict[str, float]]]:
    """size → method → best and median seconds and number of turns."""
    names = ["limit", *METHODS]
    last: dict[str, tuple[int, float]] = {}  # method → (size, seconds) last measured
    table: dict[int, dict[str, dict[str, float]]] = {}
    for batch in args.sizes:
        z, r = inputs(batch, args.dim, args.device)
        running = []
        for name in names:
            size, took = last.get(name, (batch, 0.0))
            if (
                fits(name, batch, args.dim, args.memory)
                and took * (batch / size) ** 2 < args.longest
            ):
                running.append(name)
        turns: dict[str, list[float]] = {name: [] for name in running}
        for name in running:
            call(name, z, r)  # warm-up
        until = time.perf_counter() + args.seconds
        while not turns["ours"] or (time.perf_counter() < until and len(turns["ours"]) < 200):
            for name in running:
                turns[name].append(seconds(name, z, r))
        table[batch] = {
            name: {"best": min(t), "median": statistics.median(t), "turns": len(t)}
            for name, t in turns.items()
        }
        last |= {name: (batch, min(t)) for name, t in turns.items()}
        print(f"B={batch}: " + ", ".join(f"{n} {min(t) * 1e3:.1f} ms" for n, t in turns.items()))
    return table


def resident(field: str) -> int:
    """A field of this process's status (VmRSS now, VmHWM at peak), bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: memory is measured on Linux only")


def peak_memory(method: str, batch: int, dim: int, device: str) -> int:
    """Bytes of one call at its peak, above those before it."""
    warm = inputs(32, dim, device)
    call(method, *warm)  # libraries load and allocate their workspace
    z, r = inputs(batch, dim, device)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call(method, z, r)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    call(method, z, r)
    return max(0, resident("VmHWM") - before)


def measure_memory(
    args: argparse.Namespace, times: dict[int, dict[str, dict[str, float]]]
) -> dict[int, dict[str, int]]:
    """size → method → peak bytes, for what was timed."""
    # return freed arrays to the system at once, else they hide in the resident memory
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    table: dict[int, dict[str, int]] = {}
    for batch, methods in times.items():
        table[batch] = {}
        for name in methods:
            command = [sys.executable, __file__, "--peak", name, "--sizes", str(batch)]
            command += ["--dim", str(args.dim), "--device", args.device]
            command += ["--threads", str(args.threads)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
            table[batch][name] = int(done.stdout)
    return table


def markdown(result: dict) -> str:
    """The result as a document with two tables."""
    names = ["limit", *METHODS]
    head = "| B | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|\n"
    times, memory, slack = head, head, ""
    for batch, row in result["times"].items():
        ms = [f"{row[n]['best'] * 1e3:.2f}" if n in row else "-" for n in names]
        mib = [
            f"{result['memory'][batch][n] / 2**20:.0f}" if n in result["memory"][batch] else "-"
            for n in names
        ]
        times += f"| {batch} | " + " | ".join(ms) + " |\n"
        memory += f"| {batch} | " + " | ".join(mib) + " |\n"
        share = row["limit"]["best"] / row["ours"]["best"]
        faster = row["cdist"]["best"] / row["ours"]["best"] if "cdist" in row else math.nan
        slack += f"| {batch} | {share:.0%} | {faster:.2f} |\n"
    return (
        "# Pairwise loss, forward + backward\n\n"
        f"1 − Pearson correlation of pair distances, D = {result['dim']}, float32, "
        f"{result['device']}, {result['threads']} thread(s), torch {result['torch']}, "
        f"{result['date']}.\nMade by `python benchmarks/pairwise_loss.py`, which says how.\n\n"
        f"## Time, ms (best of interleaved turns)\n\n{times}\n"
        "## Ours, as a share of the two-product limit's speed, and times faster than cdist\n\n"
        f"| B | limit / ours | cdist / ours |\n|---|---|---|\n{slack}\n"
        f"## Peak memory, MiB\n\n{memory}"
    )


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048, 4096]
    )
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20, help="turns of one size, at least one")
    parser.add_argument("--longest", type=float, default=30, help="leave out slower calls, seconds")
    parser.add_argument("--memory", type=float, default=4, help="limit for broadcast, GiB")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    args = parse()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak_memory(args.peak, args.sizes[0], args.dim, args.device))
        return
    on_gpu = args.device.startswith("cuda")
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    times = measure_times(args)
    result = {
        "dim": args.dim,
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine() + " CPU",
        "threads": args.threads,
        "torch": torch.__version__,
        "date": date,
        "load": os.getloadavg(),
        "times": times,
        "memory": measure_memory(args, times),
    }
    text = markdown(result)
    print("\n" + text)
    stem = args.out / f"pairwise_loss_{'cuda' if on_gpu else 'cpu'}_{date}"
    write_json(stem.with_suffix(".json"), result)
    with atomic_path(stem.with_suffix(".md")) as tmp:
        tmp.write_text(text)


if __name__ == "__main__":
    main()
