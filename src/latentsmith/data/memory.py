"""Datasets that fit in memory: one uint8 tensor."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard

import torch
import xxhash
from torch import Tensor

from latentsmith.data.base import Dataset, Sample
from latentsmith.errors import UserError
from latentsmith.utils.seeding import generator


class GatherDataset(Dataset, Protocol):
    """A dataset of equally sized images that can give many samples at once."""

    def gather(self, indices: Tensor) -> Sample:
        """int64 [B] → the same keys as one sample, collated: ``"image"`` uint8 [B, C, H, W],
        ``"label"`` int64 [B], texts as lists."""
        ...


def can_gather(dataset: Dataset) -> TypeGuard[GatherDataset]:
    """Whether it is a `GatherDataset`. Not asked by ``isinstance``: before Python 3.12 that reads
    every attribute of a protocol, and the digest of a folder reads all of its files."""
    return hasattr(dataset, "gather")


class MemoryDataset:
    """Images [N, C, H, W] uint8 and, where known, labels [N] int64."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        name: str,
        classes: Sequence[str] | None = None,
        origin: str = "memory",
    ):
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(
                f"images must be uint8 [N, C, H, W], not {images.dtype} {images.shape}"
            )
        if (labels is None) != (classes is None):
            raise ValueError("labels and class names come together")
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"{len(labels)} labels for {len(images)} images")
        self.images = images.contiguous()
        self.labels = None if labels is None else labels.long().contiguous()
        self.name = name
        self.classes = None if classes is None else list(classes)
        self.origin = origin
        self.digest = self._digest()

    def _digest(self) -> str:
        state = xxhash.xxh3_128(repr((tuple(self.images.shape), self.classes)).encode())
        state.update(self.images.numpy().data)
        if self.labels is not None:
            state.update(self.labels.numpy().data)
        return state.hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        sample: dict[str, Any] = {"image": self.images[index]}
        if self.labels is not None:
            sample["label"] = int(self.labels[index])
        return sample

    def gather(self, indices: Tensor) -> Sample:
        """int64 [B] → ``"image"`` uint8 [B, C, H, W] and ``"label"`` int64 [B]."""
        batch: dict[str, Any] = {"image": self.images[indices]}
        if self.labels is not None:
            batch["label"] = self.labels[indices]
        return batch


def split_indices(n: int, split: str, val_fraction: float, seed: int, what: str) -> Tensor:
    """Indices of one split of ``n`` samples: a seeded fraction is held out, order is kept.

    Raises UserError when a split would be empty.
    """
    held = round(n * val_fraction)
    if not 0 < held < n:
        raise UserError(
            f"{what}: {n} samples with val_fraction={val_fraction} leave one split empty. "
            "Give more samples, another val_fraction, or a separate validation set."
        )
    mixed = torch.randperm(n, generator=generator(seed, "split", n))
    return (mixed[:held] if split == "val" else mixed[held:]).sort().values


def seeded_subset(indices: Tensor, count: int | None, seed: int) -> Tensor:
    """At most ``count`` of ``indices`` (all for None), drawn with ``seed``, order kept.

    Drawn and not just the first: files sorted by class would leave classes out.
    """
    if count is None or count >= len(indices):
        return indices
    mixed = torch.randperm(len(indices), generator=generator(seed, "subset", len(indices)))
    return indices[mixed[:count].sort().values]
