"""Class-balanced choices that only grow: the first N of one seeded order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentsmith.data.base import CorruptSample, Dataset
from latentsmith.data.subset import Subset
from latentsmith.utils.seeding import generator

UNREADABLE = -1
"""In place of a label that cannot be read."""


def balanced(labels: Sequence[int], count: int, seed: int) -> Tensor:
    """Positions of at most ``count`` samples, the classes as equal as can be; in ascending order.

    Classes take turns, in a new random order each round, and give a random sample of theirs each
    time; one that is used up is passed over. So counts differ by at most one between classes that
    have enough, and a smaller choice with the same seed is part of a larger one.

    Args:
        labels: class of every sample; `UNREADABLE` ones are not chosen.

    Returns:
        int64 [min(count, readable samples)].
    """
    rng = generator(seed, "balanced", len(labels))
    mixed = torch.randperm(len(labels), generator=rng).tolist()
    draws = torch.rand(len(labels), generator=rng, dtype=torch.float64).tolist()
    given: dict[int, int] = {}  # class → samples it has given
    order = []  # (round, a random number, position)
    for position in mixed:
        label = labels[position]
        if label != UNREADABLE:
            turn = given[label] = given.get(label, -1) + 1
            # not the place in ``mixed``: there the samples of large classes come earlier
            order.append((turn, draws[position], position))
    chosen = [position for _, _, position in sorted(order)[:count]]
    return torch.tensor(sorted(chosen), dtype=torch.int64)


def balanced_part(dataset: Dataset, count: int, seed: int) -> Tensor:
    """`balanced` positions of a dataset, int64; without classes, just random ones."""
    labels = labels_of(dataset)
    return balanced([0] * len(dataset) if labels is None else labels, count, seed)


def labels_of(dataset: Dataset) -> list[int] | None:
    """The class of every sample, without decoding images where the dataset can (``labels``). None
    without classes."""
    if dataset.classes is None:
        return None
    if isinstance(dataset, Subset):
        labels = labels_of(dataset.dataset)
        return None if labels is None else [labels[k] for k in dataset.indices.tolist()]
    known = getattr(dataset, "labels", None)
    if known is None:
        return [_label(dataset, index) for index in range(len(dataset))]
    return known.tolist() if isinstance(known, Tensor) else list(known)


def _label(dataset: Dataset, index: int) -> int:
    try:
        return int(dataset[index]["label"])
    except CorruptSample:
        return UNREADABLE
