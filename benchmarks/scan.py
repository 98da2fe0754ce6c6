"""Forward + backward of the scans: our backends, mambapy's parallel scan, attention, whole layers.

    pip install --no-deps --target FOLDER mambapy && export PYTHONPATH=FOLDER   # names bare torch
    OMP_NUM_THREADS=1 python benchmarks/scan.py --write
    python benchmarks/scan.py --lengths 256 --threads 1 2 --rounds 2

B = 8, 1024 channels, 16 states (SSD: 16 heads of 64), float32, Δ up to 0.1; attention and layers of
width 512, whose Mamba has these channels inside (expand 2), 8 heads. All methods of one length
take turns in one process; "busy" is processor time (all threads), which other load disturbs least,
"wall" what the clock said; best of the turns. Memory: a fresh process for each method, peak
resident memory of one call above that before it. Where B = 8 would pass ``--memory``, B = 2 is
measured and multiplied by 4, marked †; only one turn is taken from L = 4096 on. A method that is
not installed is shown as "-".
"""

import argparse
import importlib.util
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.scan import selective_scan, ssd_scan
from latentsmith.utils.files import atomic_path, write_json

RESULTS = Path(__file__).parent / "results"
BATCH, DIM, STATES, HEADS, WIDTH = 8, 1024, 16, 16, 512
Call = Callable[[], None]


def leaf(*shape: int, scale: float = 1.0, positive: bool = False) -> Tensor:
    """Random numbers that take a gradient."""
    t = torch.randn(*shape).mul_(scale)
    return (t.abs_() if positive else t).requires_grad_()


def decays(*shape: int) -> Tensor:
    """Negative, −1 … −16 as Mamba starts with."""
    return (-1 - 15 * torch.rand(*shape)).requires_grad_()


def pscan_of_mambapy(x: Tensor, step: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Its ``MambaBlock.selective_scan`` without the skip."""
    from mambapy.pscan import pscan  # pyright: ignore

    kept = torch.exp(step.unsqueeze(-1) * decay)
    entering = step.unsqueeze(-1) * b.unsqueeze(2) * x.unsqueeze(-1)
    return (pscan(kept, entering) @ c.unsqueeze(-1)).squeeze(3)


def s6(batch: int, length: int, run: Callable[..., Tensor]) -> Call:
    """A call of an S6 scan."""
    x, step = leaf(batch, length, DIM), leaf(batch, length, DIM, scale=0.03, positive=True)
    inputs = [x, step, decays(DIM, STATES), *(leaf(batch, length, STATES) for _ in range(2))]
    grad = torch.randn(batch, length, DIM)
    return lambda: _ignore(torch.autograd.grad(run(*inputs), inputs, grad))


def ssd(batch: int, length: int) -> Call:
    """A call of our SSD scan."""
    x = leaf(batch, length, HEADS, DIM // HEADS)
    step = leaf(batch, length, HEADS, scale=0.03, positive=True)
    inputs = [x, step, decays(HEADS), *(leaf(batch, length, STATES) for _ in range(2))]
    grad = torch.randn(x.shape)
    return lambda: _ignore(torch.autograd.grad(ssd_scan(*inputs).y, inputs, grad))


def attention(batch: int, length: int) -> Call:
    """Scaled dot products alone."""
    q, k, v = (leaf(batch, 8, length, WIDTH // 8) for _ in range(3))
    grad, run = torch.randn(q.shape), F.scaled_dot_product_attention
    return lambda: _ignore(torch.autograd.grad(run(q, k, v), (q, k, v), grad))


class AttentionLayer(nn.Module):
    """Projections and attention, [B, L, 512]."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The layer."""
        q, k, v = self.into(x).unflatten(2, (3, 8, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class S6Layer(nn.Module):
    """Projections, S6 and gate of Mamba (no convolution), [B, L, 512]."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend, self.rank = backend, WIDTH // 16
        self.into, self.out = nn.Linear(WIDTH, 2 * DIM), nn.Linear(DIM, WIDTH)
        self.select, self.widen = nn.Linear(DIM, self.rank + 2 * STATES), nn.Linear(self.rank, DIM)
        self.decay, self.skip = nn.Parameter(decays(DIM, STATES)), nn.Parameter(torch.ones(DIM))

    def forward(self, x: Tensor) -> Tensor:
        """The layer."""
        v, gate = self.into(x).chunk(2, 2)
        low, b, c = self.select(v).split([self.rank, STATES, STATES], 2)
        step = F.softplus(self.widen(low) - 4)
        y = selective_scan(v, step, self.decay, b, c, self.skip, backend=self.backend).y
        return self.out(y * F.silu(gate))


class SSDLayer(nn.Module):
    """Projections, SSD and gate of Mamba-2 (no convolution), [B, L, 512]."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [DIM, DIM, STATES, STATES, HEADS]
        self.into, self.out = nn.Linear(WIDTH, sum(self.sizes)), nn.Linear(DIM, WIDTH)
        self.decay, self.skip = nn.Parameter(decays(HEADS)), nn.Parameter(torch.ones(HEADS))

    def forward(self, x: Tensor) -> Tensor:
        """The layer."""
        v, gate, b, c, step = self.into(x).split(self.sizes, 2)
        step = F.softplus(step - 4)
        y = ssd_scan(v.unflatten(2, (HEADS, -1)), step, self.decay, b, c, self.skip).y
        return self.out(y.flatten(2) * F.silu(gate))


def layer(batch: int, length: int, made: nn.Module) -> Call:
    """A call of a layer, gradients of input and parameters."""
    x, grad = leaf(batch, length, WIDTH), torch.randn(batch, length, WIDTH)
    inputs = [x, *made.parameters()]
    return lambda: _ignore(torch.autograd.grad(made(x), inputs, grad))


def ours(**how: Any) -> Callable[..., Tensor]:
    """Our S6 scan."""
    return lambda *inputs: selective_scan(*inputs, **how).y


METHODS: dict[str, Callable[[int, int], Call]] = {
    "mambapy pscan": lambda b, n: s6(b, n, pscan_of_mambapy),
    "reference": lambda b, n: s6(b, n, ours(backend="reference")),
    "chunk": lambda b, n: s6(b, n, ours()),
    "chunk zoh": lambda b, n: s6(b, n, ours(rule="zoh")),
    "cpp": lambda b, n: s6(b, n, ours(backend="cpp")),
    "cpp zoh": lambda b, n: s6(b, n, ours(backend="cpp", rule="zoh")),
    "SSD chunk": ssd,
    "SDPA": attention,
    "layer: attention": lambda b, n: layer(b, n, AttentionLayer()),
    "layer: S6 chunk": lambda b, n: layer(b, n, S6Layer("chunk")),
    "layer: S6 cpp": lambda b, n: layer(b, n, S6Layer("cpp")),
    "layer: SSD": lambda b, n: layer(b, n, SSDLayer()),
}
SIZES = {"mambapy pscan": 8.5, "reference": 5.0}
"""Peak of those that keep states, in tensors [B, L, D, N]."""


def _ignore(_: object) -> None:
    """A call gives nothing."""


def batch_for(name: str, length: int, memory: float) -> int:
    """8, or 2 where 8 would take more than ``memory`` GiB."""
    gib = SIZES.get(name, 0) * BATCH * length * DIM * STATES * 4 / 2**30
    return 2 if gib > memory else BATCH


def chosen() -> list[str]:
    """Methods that are installed."""
    there = importlib.util.find_spec("mambapy") is not None
    return [name for name in METHODS if there or name != "mambapy pscan"]


def measure_times(args: argparse.Namespace, length: int, threads: int) -> dict[str, Any]:
    """Method → batch, busy and wall seconds of B = 8 (best of the turns)."""
    torch.set_num_threads(threads)
    names = chosen()
    batches = {name: batch_for(name, length, args.memory) for name in names}
    long = length >= 4096
    row: dict[str, Any] = {}
    for turn in range(1 if long else args.rounds + 1):
        for name in names:
            call = METHODS[name](batches[name], length)
            busy, wall = time.process_time(), time.perf_counter()
            call()
            busy, wall = time.process_time() - busy, time.perf_counter() - wall
            if turn == 0 and not long:
                continue  # warm-up
            times = BATCH // batches[name]
            best = row.setdefault(
                name, {"batch": batches[name], "busy": math.inf, "wall": math.inf}
            )
            best["busy"] = min(best["busy"], busy * times)
            best["wall"] = min(best["wall"], wall * times)
    told = ", ".join(f"{name} {r['busy']:.2f}" for name, r in row.items())
    print(f"L={length}, {threads} thread(s), busy s: {told}", flush=True)
    return row


def resident(field: str) -> int:
    """A field of this process's status (VmRSS now, VmHWM at peak), bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: memory is measured on Linux only")


def peak_memory(name: str, length: int, batch: int) -> int:
    """Bytes of one call at its peak, above those before it."""
    METHODS[name](1, 64)()  # libraries load and allocate their workspace
    call = METHODS[name](batch, length)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    call()
    return max(0, resident("VmHWM") - before)


def measure_memory(args: argparse.Namespace, length: int) -> dict[str, int]:
    """Method → peak bytes of B = 8, scans and attention only."""
    # return freed arrays to the system at once, else they hide in the resident memory
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    found = {}
    for name in chosen():
        if name.startswith("layer"):
            continue
        batch = batch_for(name, length, args.memory)
        command = [sys.executable, __file__, "--peak", name, str(length), str(batch)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        found[name] = int(done.stdout) * (BATCH // batch)
    return found


def crossover(rows: dict[str, dict[str, Any]], name: str) -> str:
    """The length from which layer ``name`` costs less than attention, log-linear in between."""
    lengths = sorted(map(int, rows))
    gaps = [
        math.log(rows[str(n)][name]["busy"] / rows[str(n)]["layer: attention"]["busy"])
        for n in lengths
    ]
    if gaps[0] < 0:
        return f"below {lengths[0]}"
    for (n, gap), (m, later) in zip(
        zip(lengths, gaps, strict=True), zip(lengths[1:], gaps[1:], strict=True), strict=False
    ):
        if later < 0:
            share = gap / (gap - later)
            return f"{round(math.exp(math.log(n) + share * math.log(m / n)), -1):.0f}"
    return f"above {lengths[-1]}"


def table(rows: dict[str, dict[str, Any]], cell: Callable[[Any], str]) -> str:
    """Methods down, lengths across."""
    names = [name for name in METHODS if any(name in row for row in rows.values())]
    text = "| method | " + " | ".join(f"L = {n}" for n in rows) + " |\n"
    text += "|---" * (len(rows) + 1) + "|\n"
    for name in names:
        cells = [cell(row[name]) if name in row else "-" for row in rows.values()]
        text += f"| {name} | " + " | ".join(cells) + " |\n"
    return text


def ratios(times: dict[str, Any], memory: dict[str, Any]) -> str:
    """mambapy against ours."""
    text = "| against mambapy's pscan | " + " | ".join(f"L = {n}" for n in times) + " |\n"
    text += "|---" * (len(times) + 1) + "|\n"
    for name in ("reference", "chunk", "chunk zoh", "cpp", "SSD chunk"):
        cells = []
        for n, row in times.items():
            faster = row["mambapy pscan"]["busy"] / row[name]["busy"]
            kept = memory.get(n)
            leaner = f", {kept['mambapy pscan'] / kept[name]:.1f} x leaner" if kept else ""
            cells.append(f"{faster:.1f} x faster{leaner}")
        text += f"| {name} | " + " | ".join(cells) + " |\n"
    return text


def markdown(result: dict[str, Any]) -> str:
    """The result as a document."""
    text = (
        "# Scans, forward + backward\n\n"
        f"B = {BATCH}, {DIM} channels, {STATES} states, float32; torch {result['torch']}, "
        f"{result['machine']}, {result['cores']} cores, load average {result['load'][0]:.1f} "
        f"before and {result['load_after'][0]:.1f} after. † B = 2, multiplied by 4.\n"
        f"Made by `{result['command']}`, which says how.\n"
    )

    def seconds(cell: dict[str, Any]) -> str:
        return f"{cell['busy']:.2f} ({cell['wall']:.2f})" + ("" if cell["batch"] == BATCH else " †")

    for threads, rows in result["times"].items():
        text += f"\n## {threads} thread(s): seconds busy (wall)\n\n{table(rows, seconds)}"
        text += "\nA layer costs less than attention's from about L = "
        text += ", ".join(
            f"{crossover(rows, f'layer: {name}')} ({name})"
            for name in ("S6 chunk", "S6 cpp", "SSD")
        )
        text += ".\n"
        if "mambapy pscan" in next(iter(rows.values())):
            text += f"\n{ratios(rows, result['memory'])}"
    text += "\n## Peak memory of one call, MiB\n\n"
    return text + table(result["memory"], lambda count: f"{count / 2**20:.0f}")


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2, help="turns after a warm-up, L < 4096")
    parser.add_argument("--memory", type=float, default=6, help="above this many GiB: B = 2")
    parser.add_argument("--write", action="store_true", help="keep the result")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    args = parse()
    torch.manual_seed(0)
    if args.peak:
        torch.set_num_threads(1)
        name, length, batch = args.peak
        print(peak_memory(name, int(length), int(batch)))
        return
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/scan.py", *sys.argv[1:]]),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
    }
    result["times"] = {
        str(threads): {str(n): measure_times(args, n, threads) for n in args.lengths}
        for threads in args.threads
    }
    result["memory"] = {str(n): measure_memory(args, n) for n in args.lengths}
    result["load_after"] = os.getloadavg()
    print(markdown(result))
    if args.write:
        stem = RESULTS / "scan_cpu"
        write_json(stem.with_suffix(".json"), result)
        with atomic_path(stem.with_suffix(".md")) as tmp:
            tmp.write_text(markdown(result))


if __name__ == "__main__":
    main()
