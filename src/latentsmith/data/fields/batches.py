"""From batches to what a training step is given and asked; scattered points as batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.fields.base import FieldBatch
from latentsmith.data.fields.image import ImageField
from latentsmith.data.fields.points import PointSet
from latentsmith.data.fields.sampling import FieldSamplingConfig
from latentsmith.data.order import order, rank_slice
from latentsmith.training.task import Batch
from latentsmith.utils.digest import state_digest

Draw = Callable[[Batch, torch.Generator], FieldBatch]
"""(batch, what decides) → points that are given and asked, on the batch's device."""


def of_images(sampling: FieldSamplingConfig) -> Draw:
    """Of batches with ``image`` [B, C, H, W] in [0, 1]; values are in [-1, 1]."""
    sampler = sampling.build()

    def draw(batch: Batch, generator: torch.Generator) -> FieldBatch:
        images = 2 * batch["image"] - 1
        images = turned(images, generator) if sampling.symmetries else images
        return sampler(ImageField(images), generator)

    return draw


def turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of square images [B, C, R, R] in one of its eight symmetries, its channels shuffled."""
    where = generator.device
    up, left, across = (
        (torch.rand(len(images), generator=generator, device=where) < 0.5)
        .to(images.device)
        .view(-1, 1, 1, 1)
        for _ in range(3)
    )
    images = torch.where(up, images.flip(-2), images)
    images = torch.where(left, images.flip(-1), images)
    images = torch.where(across, images.mT, images)
    channels = torch.rand(images.shape[:2], generator=generator, device=where).argsort(1)
    return images.gather(1, channels.to(images.device)[:, :, None, None].expand_as(images))


def of_points(sampling: FieldSamplingConfig) -> Draw:
    """Of batches of `PointBatches`. How many of a signal's points are given and asked is
    ``sampling``'s; it has no other say where nothing is known between the points."""

    def draw(batch: Batch, generator: torch.Generator) -> FieldBatch:
        return PointSet(batch["coordinates"], batch["values"]).draw(sampling, generator)

    return draw


@dataclass(frozen=True)
class PointBatches:
    """A `PointSet` as the training loop's `latentsmith.training.batches.BatchSource`: batches with
    ``index`` [B], ``coordinates`` [B, N, d] and ``values`` [B, N, C].

    Attributes:
        points: S signals; coordinates in [-1, 1] (see `Frame`).
        batch_size: signals of a batch, over all ranks.
        seed: of the order.
        rank, world_size: which part of each batch this process gets.
    """

    points: PointSet
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """See `BatchSource`."""
        told = {"coordinates": self.points.coordinates, "values": self.points.values}
        return {"data": "points", "digest": state_digest(told), "seed": self.seed}

    def iterate(self, start: int = 0) -> Iterator[Batch]:
        """This rank's part of each batch, for ever, after ``start`` samples."""
        part = rank_slice(self.batch_size, self.rank, self.world_size)
        while True:
            low, count = start + part.start, part.stop - part.start
            yield self.batch(order(len(self.points), self.seed, low, count))
            start += self.batch_size

    def batch(self, index: torch.Tensor) -> Batch:
        """Some of the signals, by number [B]."""
        some = self.points[index]
        return {"index": index, "coordinates": some.coordinates, "values": some.values}
