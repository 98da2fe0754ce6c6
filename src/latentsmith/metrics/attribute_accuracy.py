"""Does a picture of captioned shapes show what its caption says, factor by factor?

A judge reads the pictures (`latentsmith.metrics.shapes_judge`); here its readings are compared
with what was asked. Objects of a picture have no order: see `latentsmith.metrics.shapes_judge.
matching` for which of them is the asked one.
"""

from typing import Any

from torch import Tensor

from latentsmith.errors import UserError, nearest
from latentsmith.metrics.checks import check_count, check_paired
from latentsmith.metrics.intervals import permutation_mean
from latentsmith.metrics.registry import metric
from latentsmith.metrics.shapes_judge.matching import PARTS, verdicts
from latentsmith.metrics.shapes_judge.tables import check_tables

ALL_PARTS = (*PARTS, "joint")


def attributes_per_sample(found_scenes: Tensor, asked_scenes: Tensor, *, part: str) -> Tensor:
    """1 or 0 for each image of which ``part`` was asked, float64 [M]; as `attribute_accuracy`."""
    if part not in ALL_PARTS:
        raise UserError(f"no part {part!r} of a picture to judge. {nearest(part, ALL_PARTS)}")
    check_tables(found_scenes, "found_scenes")
    check_tables(asked_scenes, "asked_scenes", 2)
    check_paired(found_scenes, asked_scenes, "found_scenes", "asked_scenes")
    right, asked = verdicts(found_scenes, asked_scenes.to(found_scenes.device))
    if part == "joint":
        values = (right | ~asked).all(1)
    else:
        column = ALL_PARTS.index(part)
        values = right[asked[:, column], column]
    what = "attribute accuracy" if part == "joint" else f"attribute accuracy of {part}"
    check_count(len(values), 1, what, "image whose caption mentions it")
    return values.double()


def _others(
    found_scenes: Tensor, asked_scenes: Tensor, *, seed: int, part: str
) -> tuple[float, dict[str, Any]]:
    """Captions of other images."""

    def accuracy(i: Tensor, j: Tensor) -> float:
        try:
            return attribute_accuracy(found_scenes[i], asked_scenes[j], part=part)
        except UserError:  # none in this subset of a large set mentions it
            return 0.0

    attributes_per_sample(found_scenes, asked_scenes, part=part)  # refuses what cannot be measured
    return permutation_mean(accuracy, len(found_scenes), seed)


@metric(
    "attribute_accuracy",
    help="share of pictures of shapes in which a judge finds what the caption says",
    inputs=("found_scenes", "asked_scenes"),
    higher_is_better=True,
    best=1.0,
    per_sample=attributes_per_sample,
    baseline=_others,
)
def attribute_accuracy(found_scenes: Tensor, asked_scenes: Tensor, *, part: str = "joint") -> float:
    """Share of images in [0, 1], over those of which ``part`` was asked.

    Args:
        found_scenes: what a judge reads, tables int [N, 1 + K, 4] (`Judge.read`).
        asked_scenes: what was asked, int [N, 3, 4]
            (`latentsmith.metrics.shapes_judge.tables.asked_tables`).
        part: ``shape``, ``color``, ``size``, ``position`` (right in all objects of which they were
            asked), ``background``, ``count`` (always asked), ``relation``; ``joint``: all that was
            asked.

    Raises:
        UserError: other tables, an unknown part, nobody asked for it.
    """
    return float(attributes_per_sample(found_scenes, asked_scenes, part=part).mean())
