"""Triplet order agreement: of "is j or l nearer to i", how many answers do both spaces share?"""

from typing import Any

import torch
from torch import Tensor

from latentsmith.metrics.checks import check_count, check_paired
from latentsmith.metrics.pairdist import Vectors
from latentsmith.metrics.points import Points
from latentsmith.metrics.registry import metric
from latentsmith.utils.seeding import generator


def triplet_order_per_sample(
    latents: Vectors, reference: Vectors, *, per_point: int = 64
) -> Tensor:
    """Agreement [N] of each anchor point over ``per_point`` random pairs of others.

    Ties in either space count one half. The triplets are a fixed function of N.
    """
    z, r = Points.of(latents, "latents"), Points.of(reference, "reference")
    check_paired(z.x, r.x, z.name, r.name)
    check_count(n := len(z), 4, "triplet_order")
    z.check_spread("triplet_order")
    r.check_spread("triplet_order")
    gen = generator("triplets", n)
    first = torch.randint(1, n, (n, per_point), generator=gen)
    second = torch.randint(1, n - 1, (n, per_point), generator=gen)
    second += (second >= first).long()  # both are offsets from the anchor, never 0, never equal
    anchor = torch.arange(n)[:, None]
    j, other = ((anchor + o).remainder(n).to(z.x.device) for o in (first, second))
    order_z = (z.distances.gather(1, j) - z.distances.gather(1, other)).sign()
    order_r = (r.distances.gather(1, j) - r.distances.gather(1, other)).sign()
    return (0.5 + 0.5 * order_z * order_r).mean(1)


def _half(*_: Any, **__: Any) -> tuple[float, dict[str, Any]]:
    return 0.5, {"chance": "coin"}


@metric(
    "triplet_order",
    help="share of random triplets whose nearer pair is the same in latents and reference",
    inputs=("latents", "reference"),
    higher_is_better=True,
    best=1.0,
    per_sample=triplet_order_per_sample,
    baseline=_half,
)
def triplet_order(latents: Vectors, reference: Vectors, *, per_point: int = 64) -> float:
    """Mean agreement over N * per_point triplets (0.5 = chance).

    Raises:
        UserError: fewer than 4 samples, collapsed points, NaN, unequal counts.
    """
    return float(triplet_order_per_sample(latents, reference, per_point=per_point).mean())
