"""What lies nearest."""

import torch
from torch import Tensor

from latentsmith.errors import UserError


def nearest_to(
    point: Tensor, points: Tensor, count: int, *, without: int | None = None
) -> tuple[list[int], list[float]]:
    """(rows of ``points`` [N, …] nearest to ``point`` […], nearest first; their distances, as
    shares of the mean distance, so that spaces of any scale can be compared).

    Args:
        without: a row that does not count: the point itself.

    Raises:
        UserError: fewer other points than are asked for.
    """
    others = len(points) - (without is not None)
    if not 1 <= count <= others:
        raise UserError(f"{count} neighbours of {others} samples: ask for 1 to {others}")
    far = (points.flatten(1).double() - point.flatten().double()).norm(dim=1)
    if without is not None:
        far[without] = float("inf")
    mean = float(far[far.isfinite()].mean())
    order = torch.argsort(far, stable=True)[:count]
    return order.tolist(), (far[order] / (mean or 1.0)).tolist()
