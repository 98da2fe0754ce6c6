"""What scattered points of photographs give without learning: the floor of the field recipe.

    python benchmarks/field_interpolation.py [--reduce 3] [--stride 23] [--seed 0]

Squares of 96 x 96 of the photographs in `latentsmith.data.photos`, made `--reduce` times smaller
first; truth at 32 and 64 is their area average. Points are drawn without replacement from the
32 x 32 (or 96 x 96) lattice, others for every square, and SciPy interpolates to 32, 64 and 96.
Given are the means over squares of each square's PSNR and SSIM, on 8 bits.

The research page's table has 42 squares of other photographs (scikit-image's, 3 times reduced), so
its numbers differ: 23.3 / 22.7 / 21.4 dB for linear from 205 of 32². Prints markdown; writes it
with the means as JSON to benchmarks/results/field_interpolation.{md,json}.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from latentsmith.data.crops import squares
from latentsmith.data.fields import ImageField, grid, observe
from latentsmith.data.fields.interpolation import bicubic, interpolate
from latentsmith.data.fields.patterns.random import Random
from latentsmith.data.photos import NAMES, photograph, reduced
from latentsmith.metrics.field_values import fidelity
from latentsmith.utils.files import atomic_path, write_json
from latentsmith.utils.seeding import generator

RESULTS = Path(__file__).parent / "results"
SCALES = (32, 64, 96)
#        lattice points method
ROWS = [
    (32,   205, "mean"),
    (32,   205, "nearest"),
    (32,   205, "linear"),
    (32,   205, "cubic"),
    (32,   205, "thin_plate"),
    (32,   512, "linear"),
    (32,   512, "thin_plate"),
    (96,  1843, "linear"),
]  # fmt: skip

Scores = dict[int, dict[str, float]]
"""resolution → "psnr", "ssim" """


def crops(reduce: int, stride: int) -> Tensor:
    """Squares of all photographs, float32 [N, 3, 96, 96] in [-1, 1]; they overlap."""
    cut = [squares(reduced(photograph(name), reduce), 96, stride) for name in NAMES]
    return torch.cat(cut).float() / 127.5 - 1


def scores(field: ImageField, made: dict[int, Tensor]) -> Scores:
    """Means over squares."""
    out = {}
    for resolution, values in made.items():
        found = fidelity(values.clamp(-1, 1), field.lattice(resolution))
        out[resolution] = {name: float(value.mean()) for name, value in found.items()}
    return out


def scattered(field: ImageField, lattice: int, count: int, method: str, seed: int) -> Scores:
    """Scores of one row of the table."""
    rng = generator(seed, "field_interpolation", lattice, count)  # the same points for all methods
    where, what, _ = observe(field, lattice, count, Random(), rng)
    made = {}
    for resolution in SCALES:
        values = interpolate(method, where, what, grid(resolution)[None])
        made[resolution] = values.transpose(1, 2).unflatten(2, (resolution, resolution))
    return scores(field, made)


def line(name: str, row: Scores) -> str:
    """One line of the table."""
    cells = [f"{row[r]['psnr']:.1f} / {row[r]['ssim']:.3f}" if r in row else "" for r in SCALES]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Scattered interpolation of photographs.")
    parser.add_argument("--reduce", type=int, default=3)
    parser.add_argument("--stride", type=int, default=23)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args()
    field = ImageField(crops(args.reduce, args.stride))
    lines = [
        f"# Interpolation of photographs from scattered points\n\n{len(field)} squares of 96 x 96 "
        f"(photographs {args.reduce} times reduced, every {args.stride} pixels: they overlap); "
        "PSNR / SSIM, means over squares.\n",
        "| known points | 32 | 64 | 96 |",
        "|---|---|---|---|",
    ]
    print("\n".join(lines))
    table = {}
    started = time.perf_counter()
    for lattice, count, method in ROWS:
        name = f"{count} of {lattice}², {method}"
        table[name] = scattered(field, lattice, count, method, args.seed)
        lines.append(line(name, table[name]))
        print(lines[-1], flush=True)
    coarse = field.lattice(32)
    table["bicubic"] = scores(field, {r: bicubic(coarse, r) for r in (64, 96)})
    lines.append(
        line("all 1024 of 32², bicubic (ceiling without a learned prior)", table["bicubic"])
    )
    print(f"{lines[-1]}\n\n{time.perf_counter() - started:.0f} s")
    if not args.no_write:
        write_json(RESULTS / "field_interpolation.json", {"settings": vars(args), "scores": table})
        with atomic_path(RESULTS / "field_interpolation.md") as tmp:
            tmp.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
