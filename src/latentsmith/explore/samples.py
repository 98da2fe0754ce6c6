"""What all arms of a page look at: held-out images of the first run that has some, or texts."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.base import Dataset
from latentsmith.data.loader import Loader
from latentsmith.data.subset import draw
from latentsmith.data.transforms import TransformConfig, resize
from latentsmith.utils.cache import cache_root
from latentsmith.utils.seeding import generator

THUMB = 48
"""Most pixels a side of a thumbnail."""
ACROSS = 32
"""Thumbnails in a row of the sheet."""


@dataclass
class Samples:
    """Nothing to look at: the base of both.

    Attributes:
        captions: what is said of each, shown beside it; "" where nothing is.
        labels: class of each, [] without classes.
        classes: their names.
    """

    name: str = ""
    captions: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.captions)


@dataclass
class Texts(Samples):
    """Texts, which are their own captions."""


@dataclass
class Images(Samples):
    """Held-out images, each run's transform being its own matter.

    Attributes:
        dataset: raw samples, unchanged.
        seen: how the first run sees them, for thumbnails.
        instructions: of data with edits.
    """

    dataset: Dataset = field(kw_only=True)
    seen: TransformConfig = field(kw_only=True)
    instructions: list[str] = field(default_factory=list)

    @cached_property
    def thumbnails(self) -> Tensor:
        """float32 [N, C, S, S] in [0, 1], S at most `THUMB`."""
        side = min(THUMB, self.seen.resolution)
        loader = Loader(
            self.dataset, self.seen.build(), batch_size=64, seed=0, shuffle=False, corrupt_budget=0
        )
        return torch.cat([resize(batch["image"], (side, side)) for batch in loader.epoch()])


def images_of(config: Any, count: int) -> Images | None:
    """Held-out images of a run's data, the same draw every time; None where it has no data.

    Raises:
        UserError: the data cannot be had.
    """
    data = getattr(config, "data", None)
    transform = getattr(config, "transform", None)
    if transform is None or data is None:
        return None
    dataset = draw(data.build("val", cache_root() / "data"), count)
    labels, captions, instructions = list[int](), list[str](), list[str]()
    for index in range(len(dataset)):
        sample = dataset[index]
        if "label" in sample:
            labels.append(int(sample["label"]))
        if "instruction" in sample:
            instructions.append(str(sample["instruction"]))
        captions.append(str(sample.get("caption", "")))
    known = dataset.classes or []
    return Images(
        name=dataset.name,
        captions=captions,
        labels=labels if known and len(labels) == len(dataset) else [],
        classes=known,
        dataset=dataset,
        seen=transform.deterministic(),
        instructions=instructions,
    )


def texts_of(config: Any, count: int) -> Texts | None:
    """Texts of a run's corpus, the same draw every time; None where it has none.

    Raises:
        UserError: the corpus cannot be had.
    """
    if getattr(config, "imported", None) is not None or not hasattr(config.data, "read"):
        return None
    corpus = config.data.read(cache_root() / "data")
    rows = torch.randperm(len(corpus.texts), generator=generator("explored texts"))[:count]
    return Texts(name=corpus.name, captions=[corpus.texts[row] for row in rows.sort().values])
