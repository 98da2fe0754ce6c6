"""How far do generated features lie from where real ones are?

    off_manifold = mean d(generated, nearest real) / mean d(real, nearest other real)

1: as near as real features are to each other; above: off the manifold, where a decoder has never
been; below: copies. Source: spec/3-ps-vae.md "On-manifold".
"""

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.registry import metric

CHUNK = 1024
"""Rows whose distances are held at once: 32 MB against 8,192."""


def nearest_distance(x: Tensor, bank: Tensor, *, others: bool = False) -> Tensor:
    """Euclidean distance [N] of rows x [N, D] to the nearest of ``bank`` [M, D].

    The nearest is found by products in float32, and its distance taken from the difference: near
    pairs lose their digits in the product form.

    Args:
        others: x is the bank, and no row is its own nearest.
    """
    half, found = 0.5 * bank.square().sum(1), list[Tensor]()
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        far = half - part @ bank.T  # half the squared distance, less a constant of each row
        if others:
            rows = torch.arange(len(part))
            far[rows, rows + start] = torch.inf
        found.append((part - bank[far.argmin(1)]).norm(dim=1))
    return torch.cat(found)


def off_manifold_per_sample(features: Tensor, features_ref: Tensor) -> Tensor:
    """The ratio of each generated sample [N], the mean over its tokens; arguments as
    `off_manifold`."""
    check_finite(features, "generated features")
    check_finite(features_ref, "real features")
    made = features.detach().float()
    made = made[:, None] if made.ndim == 2 else made
    real = features_ref.detach().float().flatten(0, -2)
    if made.shape[-1] != real.shape[-1]:
        raise UserError(
            f"generated features are {made.shape[-1]} wide and real ones {real.shape[-1]}."
        )
    check_count(len(real), 2, "off_manifold", "real features")
    usual = nearest_distance(real, real, others=True).double().mean()
    if not usual > 0:
        raise UserError("off_manifold is undefined: all real features are the same (collapsed).")
    far = nearest_distance(made.flatten(0, 1), real).double().unflatten(0, made.shape[:2])
    return far.mean(1) / usual


@metric(
    "off_manifold",
    help="distance of generated features to real ones, over that of real ones to each other",
    inputs=("features", "features_ref"),
    higher_is_better=False,
    per_sample=off_manifold_per_sample,
)
def off_manifold(features: Tensor, features_ref: Tensor) -> float:
    """Mean ratio; see the module's text. A collapsed generator is below 1: say recall beside it.

    Args:
        features: generated, [N, D] or token by token [N, T, D].
        features_ref: real, [M, D] or [M, T, D]; tokens of either are compared with all others.

    Raises:
        UserError: widths differ, fewer than 2 real features, NaN, collapsed real features.
    """
    return float(off_manifold_per_sample(features, features_ref).mean())
