"""What it costs to put scattered points in curve order, beside the layer that needs it.

    python benchmarks/curve_sort.py [--batch 64] [--points 9216] [--rounds 7] [--device cpu]

The layer is the least a Mamba-2 layer has: projections in (width 512, expanded by 2: value, gate,
and what one direction's scan reads) and out, and one SSD scan of 16 states over the sorted tokens.
It is timed forward, without gradients, in float32 (`--dtype bfloat16`: its projections so), on a
few sets at once (`--split`), since all of them want some 15 GB and cost no less each. The order is
`latentsmith.backbones.blocks.curves.order`: keys, sort, inverse, gaps, once for a coordinate set; a
network of 6 layers needs it once, not 6 times. Gathering the tokens into that order and back, which
every layer does, is given apart. All parts take turns in each round; given are medians over rounds,
and the median over rounds of (part / layer of the same round). Goal: an order costs less than 5 %
of one layer. Prints a markdown table; writes it with all rounds to
benchmarks/results/curve_sort_{cpu,cuda}.{md,json}.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsmith.backbones.blocks.curves import curve_keys, order
from latentsmith.utils.files import atomic_path, write_json
from latentsmith.utils.memory import keep_heap

RESULTS = Path(__file__).parent / "results"
WIDTH, EXPAND, HEAD, STATES = 512, 2, 64, 16
GOAL = 0.05


class Layer(nn.Module):
    """Projections and one SSD scan."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = EXPAND * WIDTH
        self.heads = self.inner // HEAD
        self.split = [self.inner, self.inner, self.heads, STATES, STATES]
        self.into = nn.Linear(WIDTH, sum(self.split))
        self.out = nn.Linear(self.inner, WIDTH)

    def forward(self, x: Tensor, gaps: Tensor) -> Tensor:
        """Sorted tokens [B, L, 512] and their gaps [B, L] → [B, L, 512]."""
        from latentsmith.backbones.scan import ssd_scan

        value, gate, step, inward, outward = self.into(x).split(self.split, dim=-1)
        step = nn.functional.softplus(step.float()) * gaps[..., None] * gaps.shape[1]
        decay = -torch.linspace(1, 16, self.heads, device=x.device)
        value = value.unflatten(-1, (self.heads, HEAD))
        y = ssd_scan(value, step, decay, inward, outward, rule="zoh").y.flatten(2)
        return self.out(y * nn.functional.silu(gate))


def parts(args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """name → what is timed."""
    device, dtype = args.device, getattr(torch, args.dtype)
    rng = torch.Generator().manual_seed(0)
    points = (2 * torch.rand(args.batch, args.points, 2, generator=rng) - 1).to(device)
    tokens = torch.randn(args.batch, args.points, WIDTH, generator=rng).to(device, dtype)
    layer = Layer().to(device, dtype)
    found = order(points)
    keys = curve_keys(points)
    chunks = list(zip(tokens.split(args.split), found.gaps.split(args.split), strict=True))
    return {
        "layer": lambda: [layer(x, gaps) for x, gaps in chunks],
        "order": lambda: order(points),
        "keys": lambda: curve_keys(points),
        "sort": lambda: keys.sort(dim=1, stable=True),
        "gather": lambda: found.unsort(found.sort(tokens)),
    }


def seconds(run: Callable[[], Any], device: str) -> float:
    """Wall time until the device is done."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    wait()
    started = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - started


@torch.no_grad()
def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every part in every round, after one that is not counted."""
    runs = parts(args)
    rounds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(args.rounds + 1):
        names = list(runs) if number % 2 else list(runs)[::-1]
        for name in names:
            taken = seconds(runs[name], args.device)
            if number:
                rounds[name].append(taken)
    return rounds


LABELS = {
    "layer": "layer, forward",
    "order": "**order: all of it**",
    "keys": "of which keys",
    "sort": "of which a sort row by row",
    "gather": "gathering tokens there and back (each layer)",
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Cost of curve orders beside a layer.")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--points", type=int, default=9216)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--split", type=int, default=8, help="sets the layer runs on at once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_heap()
    rounds = measure(args)
    where = platform.processor() or platform.machine()
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else where
    lines = [
        f"# Curve order\n\n{args.batch} x {args.points} points in two dimensions, {args.dtype}, "
        f"{args.threads} thread(s), {args.device} ({where}), torch {torch.__version__}; "
        f"median over {args.rounds} interleaved rounds. Goal: an order, made once for all layers, "
        f"costs less than {100 * GOAL:.0f} % of one layer.\n",
        "| part | ms | of the layer |",
        "|---|---|---|",
    ]
    for name, label in LABELS.items():
        share = [p / w for p, w in zip(rounds[name], rounds["layer"], strict=True)]
        ms = 1e3 * statistics.median(rounds[name])
        lines.append(f"| {label} | {ms:.1f} | {100 * statistics.median(share):.2f} % |")
    print("\n".join(lines))
    if not args.no_write:
        name = f"curve_sort_{args.device.partition(':')[0]}"
        write_json(RESULTS / f"{name}.json", {"settings": vars(args), "seconds": rounds})
        with atomic_path(RESULTS / f"{name}.md") as tmp:
            tmp.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
