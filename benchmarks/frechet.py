"""Fréchet distance: ours against SciPy's ``sqrtm`` and the other usual ways.

    python benchmarks/frechet.py            # D = 2048, prints
    python benchmarks/frechet.py --write    # … and writes benchmarks/results/frechet.{md,json}
    python benchmarks/frechet.py --dim 512 --rounds 1 --card 1024

Two tables of the same distance by different roads, in turns within one process (best of the turns):
from statistics where samples outnumber dimensions (means and covariances at hand, as every code
has them before it begins), and from features where they do not (2 x n rows in, number out). The
errors are relative to the closed form, known because both covariances are made to commute; their
variances span three decades, and seven in the second column. ``--card``: what a whole generation
card costs at that many samples.
"""

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentsmith.metrics import Stamp
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.metrics.frechet import frechet_distance, frechet_from_stats
from latentsmith.metrics.generation_card import measure_generation
from latentsmith.metrics.generation_reference import GenerationReference
from latentsmith.utils.files import atomic_path, write_json

RESULTS = Path(__file__).parent / "results"
Distance = Callable[[FeatureStats, FeatureStats], float]


def scipy_sqrtm(a: FeatureStats, b: FeatureStats) -> float:
    """As in pytorch-fid and clean-fid: the matrix square root of the product."""
    from scipy.linalg import sqrtm

    s, t = a.cov.numpy(), b.cov.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of singular products
        root = sqrtm(s @ t)
    if not np.isfinite(root).all():  # what those codes do then
        offset = np.eye(len(s)) * 1e-6
        root = sqrtm((s + offset) @ (t + offset))
    mean = float((a.mean - b.mean).square().sum())
    return mean + float(np.trace(s) + np.trace(t) - 2 * np.trace(root.real))


def eigvals(a: FeatureStats, b: FeatureStats) -> float:
    """As in torchmetrics: square roots of the product's (complex) eigenvalues."""
    s, t = a.cov, b.cov
    mean = float((a.mean - b.mean).square().sum())
    root = torch.linalg.eigvals(s @ t).sqrt().real.sum()
    return mean + float(s.trace() + t.trace() - 2 * root)


def eigh(a: FeatureStats, b: FeatureStats) -> float:
    """Two symmetric eigenproblems."""
    s, t = a.cov, b.cov
    values, vectors = torch.linalg.eigh(s)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ t @ root).clamp_min(0).sqrt().sum()
    mean = float((a.mean - b.mean).square().sum())
    return mean + float(s.trace() + t.trace() - 2 * cross)


BY_STATISTICS: dict[str, Distance] = {
    "ours": frechet_from_stats,
    "two eigh": eigh,
    "eigvals of the product": eigvals,
    "SciPy sqrtm": scipy_sqrtm,
}


def commuting(dim: int, decades: float) -> tuple[FeatureStats, FeatureStats, float]:
    """Statistics with variances 1 … 10^-decades in one eigenbasis, reversed in part, and their
    distance."""
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=rng, dtype=torch.float64))[0]
    s = torch.logspace(0, -decades / 2, dim, dtype=torch.float64)
    t = 1.2 * s + 0.1 * s.roll(dim // 3)
    stats = [
        FeatureStats.of_moments(mean, basis * d.square() @ basis.T, 10 * dim, "f")
        for mean, d in ((torch.zeros_like(s), s), (torch.full_like(s, 0.01), t))
    ]
    return stats[0], stats[1], float((s - t).square().sum()) + dim * 1e-4


def pair(n: int, dim: int) -> tuple[Tensor, Tensor]:
    """Two feature sets [n, dim] float32 of two distributions with a falling spectrum."""
    rng = torch.Generator().manual_seed(1)
    scale = torch.arange(1, dim + 1) ** -0.5
    mix = torch.linalg.qr(torch.randn(dim, dim, generator=rng))[0]
    a, b = torch.randn(2, n, dim, generator=rng)
    return a * scale @ mix, b * scale * 1.1 @ mix + 0.01


def by_features(distance: Distance) -> Callable[[Tensor, Tensor], float]:
    """The same from features: covariances first."""
    return lambda a, b: distance(FeatureStats.of(a, "f"), FeatureStats.of(b, "f"))


def in_turns(methods: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, Any]]:
    """Method → best seconds, all seconds, value. The slowest goes last."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in methods}
    for _ in range(rounds):
        for name, run in methods.items():
            start = time.perf_counter()
            value = run()
            found[name]["seconds"].append(time.perf_counter() - start)
            found[name]["value"] = value
    for entry in found.values():
        entry["best"] = min(entry["seconds"])
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    a, b, truth = commuting(args.dim, 3)
    c, d, steep = commuting(args.dim, 7)
    many = in_turns({name: lambda f=f: f(a, b) for name, f in BY_STATISTICS.items()}, args.rounds)
    for name, entry in many.items():
        entry["error"] = abs(entry["value"] - truth) / truth
        entry["error_steep"] = abs(BY_STATISTICS[name](c, d) - steep) / steep
    x, y = pair(args.few, args.dim)
    few = in_turns(
        {"ours": lambda: frechet_distance(x, y)}
        | {n: lambda f=f: by_features(f)(x, y) for n, f in BY_STATISTICS.items() if n != "ours"},
        args.rounds,
    )
    for entry in few.values():
        entry["error"] = abs(entry["value"] / few["ours"]["value"] - 1)
    return {"many": many, "few": few, "card": [card(n, args) for n in args.card]}


def card(n: int, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one generation card of n samples against 2 n real ones, and of the next."""
    rng = torch.Generator().manual_seed(2)
    real, made = (
        torch.randn(2 * n, args.card_dim, generator=rng),
        torch.randn(n, args.card_dim, generator=rng),
    )
    reference = GenerationReference(real, "f")
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        measure_generation(made, reference, space="f", stamp=Stamp("benchmark", n))
        seconds.append(time.perf_counter() - start)
    return {"samples": n, "dim": args.card_dim, "first": seconds[0], "next": seconds[1]}


def text(result: dict[str, Any]) -> str:
    """Markdown."""
    args, lines = result["args"], ["# Fréchet distance", ""]
    lines += [
        f"D = {args['dim']}, float64, {args['threads']} thread(s), {result['machine']} CPU, torch "
        f"{result['torch']}, SciPy {result['scipy']}. Made by `python benchmarks/frechet.py "
        "--write`, which says how.",
        "",
        "## More samples than dimensions, from statistics",
        "",
        "| method | seconds | ours is faster by | error | error, seven decades |",
        "|---|---|---|---|---|",
    ]
    many, few = result["many"], result["few"]
    lines += [
        f"| {name} | {r['best']:.2f} | {r['best'] / many['ours']['best']:.1f} | {r['error']:.0e} "
        f"| {r['error_steep']:.0e} |"
        for name, r in many.items()
    ]
    lines += [
        "",
        f"## Fewer samples than dimensions: {args['few']} of each, from features",
        "",
        "| method | seconds | ours is faster by | difference to ours |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {r['best']:.3f} | {r['best'] / few['ours']['best']:.1f} | {r['error']:.0e} |"
        for name, r in few.items()
    ]
    if result["card"]:
        lines += [
            "",
            "## A whole generation card (against twice as many real samples)",
            "",
            "| samples | D | seconds, first | seconds, same reference again |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {c['samples']} | {c['dim']} | {c['first']:.1f} | {c['next']:.1f} |"
            for c in result["card"]
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, perhaps write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--few", type=int, default=500, help="samples where they are few")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--card", type=int, nargs="*", default=[2048, 10_000])
    parser.add_argument("--card-dim", type=int, default=1280)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    import scipy
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads):  # SciPy's own BLAS too
        result = measure(args)
    result |= {
        "args": {k: v for k, v in vars(args).items() if k != "write"},
        "machine": platform.machine(),
        "torch": torch.__version__,
        "scipy": scipy.__version__,
    }
    print(text(result))
    if args.write:
        write_json(RESULTS / "frechet.json", result)
        with atomic_path(RESULTS / "frechet.md") as tmp:
            tmp.write_text(text(result))


if __name__ == "__main__":
    main()
