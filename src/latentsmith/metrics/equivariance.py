"""Does the encoder commute with flips, rotations and scaling? E(T x) against T E(x).

Error = sum |a - b|^2 / (sum |a - mu|^2 + sum |b - mu|^2) with a = E(T x), b = T E(x) and mu their
joint per-channel mean: 0 when equivariant, 1 when a and b are unrelated. Normalizing by the
spread makes latents of any scale or offset comparable.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.intervals import bootstrap_weights
from latentsmith.metrics.registry import metric

Encode = Callable[[Tensor], Tensor]
Transform = Literal["hflip", "vflip", "rot90", "rot180", "rot270", "scale50", "scale75"]
TRANSFORMS: tuple[Transform, ...] = (
    "hflip", "vflip", "rot90", "rot180", "rot270", "scale50", "scale75",
)  # fmt: skip


def apply(x: Tensor, transform: Transform) -> Tensor:
    """The same spatial transform for images and latents, [B, C, H, W].

    ``rot90`` turns counter-clockwise; ``scaleS`` resizes to S % with antialiased bicubic.
    """
    if transform == "hflip":
        return x.flip(-1)
    if transform == "vflip":
        return x.flip(-2)
    if transform.startswith("rot"):
        return x.rot90(int(transform[3:]) // 90, (-2, -1))
    if transform.startswith("scale"):
        share = int(transform[5:]) / 100
        size = [round(side * share) for side in x.shape[-2:]]
        return F.interpolate(x, size, mode="bicubic", antialias=True)
    raise UserError(f"no transform {transform!r}; known: {', '.join(TRANSFORMS)}.")


@torch.no_grad()
def equivariance_terms(
    encode: Encode, images: Tensor, transform: Transform, *, batch_size: int = 64
) -> Tensor:
    """Per image (sum |a - b|^2, sum |a - mu|^2 + |b - mu|^2), float64 [N, 2].

    Raises:
        UserError: latents without a spatial grid, NaN, a scale the encoder's stride cannot follow.
    """
    check_finite(images, "images")
    check_count(len(images), 2, "equivariance error", "images")
    left, right = [], []
    for batch in images.split(batch_size):
        latents = check_finite(encode(batch), "latents")
        if latents.ndim != 4:
            raise UserError(f"equivariance needs latents [B, C, h, w], got {list(latents.shape)}.")
        a, b = encode(apply(batch, transform)), apply(latents, transform)
        if a.shape != b.shape:
            raise UserError(
                f"{transform}: images of {list(batch.shape[-2:])} give latents "
                f"{list(a.shape[-2:])} "
                f"where {list(b.shape[-2:])} are expected; use a size the encoder's stride divides."
            )
        left.append(check_finite(a, "latents of transformed images").double().cpu())
        right.append(b.double().cpu())
    a, b = torch.cat(left), torch.cat(right)
    mu = ((a + b) / 2).mean((0, 2, 3), keepdim=True)
    spread = (a - mu).square().flatten(1).sum(1) + (b - mu).square().flatten(1).sum(1)
    return torch.stack([(a - b).square().flatten(1).sum(1), spread], dim=1)


def _ratio(terms: Tensor) -> float:
    error, spread = terms.sum(0).tolist()
    if spread <= 0:
        raise UserError("equivariance error is undefined: all latents are the same (collapsed).")
    return error / spread


def _replicates(
    encode: Encode,
    images: Tensor,
    *,
    value: float,
    replicates: int,
    seed: int,
    transform: Transform,
) -> Tensor:
    terms = equivariance_terms(encode, images, transform)
    sums = terms.T @ bootstrap_weights(len(terms), replicates, seed)  # [2, R]
    return sums[0] / sums[1]


def _unrelated(*_: Any, **__: Any) -> tuple[float, dict[str, Any]]:
    return 1.0, {"chance": "unrelated latents"}


@metric(
    "equivariance_error",
    help="E(T x) against T E(x) for flips, rotations, scaling (0 = equivariant, 1 = unrelated)",
    inputs=("encode", "images"),
    higher_is_better=False,
    replicates=_replicates,
    baseline=_unrelated,
)
def equivariance_error(encode: Encode, images: Tensor, *, transform: Transform = "hflip") -> float:
    """Normalized squared equivariance error over all images, in [0, 2].

    Args:
        encode: images [B, C, H, W] → latents [B, C', h, w].
        images: [N, C, H, W] in [0, 1].

    Raises: as `equivariance_terms`.
    """
    return _ratio(equivariance_terms(encode, images, transform))
