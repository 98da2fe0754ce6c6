"""Input checks of all metrics: a refusal says which input, what is wrong and what is needed.

A metric that quietly returns NaN for a collapsed or broken latent space would be read as "not
measured"; it is a finding, and is said as one.
"""

import torch
from torch import Tensor

from latentsmith.errors import UserError


def check_finite(x: Tensor, name: str) -> Tensor:
    """``x`` unchanged. Raises UserError when it holds NaN or infinity, naming the first sample."""
    if not x.is_floating_point():
        return x
    bad = ~torch.isfinite(x.flatten(1) if x.ndim > 1 else x[:, None]).all(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise UserError(
            f"{name} hold NaN or infinity in {int(bad.sum())} of {len(x)} samples "
            f"(first: sample {first}). Check the model's precision and its inputs."
        )
    return x


def check_count(n: int, least: int, what: str, of: str = "samples") -> None:
    """Raises UserError when ``n`` is below ``least``."""
    if n < least:
        raise UserError(f"{what} needs at least {least} {of}, got {n}.")


def check_paired(a: Tensor, b: Tensor, name_a: str, name_b: str) -> None:
    """Raises UserError unless both have the same number of rows (row i belongs to row i)."""
    if len(a) != len(b):
        raise UserError(
            f"{name_a} and {name_b} must belong to the same samples, "
            f"but there are {len(a)} and {len(b)}."
        )


def check_feature_pair(features: Tensor, features_ref: Tensor) -> tuple[Tensor, Tensor]:
    """Both [N, D], [M, D] detached in float64, on the device of ``features``.

    Raises:
        UserError: not matrices, fewer than 2 rows, NaN, unequal widths.
    """
    pair = []
    for name, x in (("features", features), ("features_ref", features_ref)):
        if x.ndim != 2:
            raise UserError(f"{name} must be [N, D], got {list(x.shape)}.")
        check_count(len(x), 2, f"a distance of {name}")
        pair.append(check_finite(x.detach(), name).to(features.device).double())
    a, b = pair
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"features are {a.shape[1]} wide and features_ref {b.shape[1]}: two feature spaces."
        )
    return a, b


def check_labels(labels: Tensor, n: int, name: str = "labels") -> Tensor:
    """int64 labels [N]. Raises UserError for another shape, dtype, count or a single class."""
    if labels.ndim != 1 or labels.is_floating_point():
        raise UserError(
            f"{name} must be an integer tensor [N], "
            f"got {str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}."
        )
    if len(labels) != n:
        raise UserError(f"there are {len(labels)} {name} for {n} samples.")
    if len(labels.unique()) < 2:
        raise UserError(f"{name} hold a single class; at least 2 are needed.")
    return labels.long()
