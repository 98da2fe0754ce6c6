"""A dataset in a few lines, and in one picture."""

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from latentsmith.data.base import CorruptSample, Dataset, Sample
from latentsmith.data.edited import has_edits
from latentsmith.data.loader import Loader
from latentsmith.data.subset import subset
from latentsmith.data.transforms import TransformConfig
from latentsmith.errors import UserError
from latentsmith.utils.files import atomic_path

SHOWN = 200
"""Characters of a text that are shown."""


def headline(dataset: Dataset) -> str:
    """Name, size, origin and digest in one line."""
    return f"{dataset.name}: {len(dataset)} images from {dataset.origin}, digest {dataset.digest}"


def describe(dataset: Dataset) -> str:
    """Everything cheap to know: count, first readable sample, classes with their counts, digest,
    origin.

    Raises:
        UserError: no sample can be read.
    """
    first = _first_readable(dataset)
    keys = ", ".join(sorted(first))
    lines = [
        f"dataset        {dataset.name}",
        f"images         {len(dataset)}",
        f"first image    {_size(first['image'])}",
        f"keys           {keys}",
    ]
    if "caption" in first:
        lines.append(f"first caption  {_short(first['caption'])}")
    if has_edits(dataset):
        lines.append(f"first edit     {_short(first['instruction'])}")
        lines.append(f"edited image   {_size(first['target'])}")
    if dataset.classes is not None:
        lines.append(f"classes        {len(dataset.classes)}")
        counts = class_counts(dataset)
        for k, name in enumerate(dataset.classes[:20]):
            lines.append(f"               {name}" + (f": {counts[k]}" if counts else ""))
        if len(dataset.classes) > 20:
            lines.append(f"               … and {len(dataset.classes) - 20} more")
    lines += [f"digest         {dataset.digest}", f"origin         {dataset.origin}"]
    return "\n".join(lines)


def _first_readable(dataset: Dataset) -> Sample:
    reason = "there is none"
    for index in range(len(dataset)):
        try:
            return dataset[index]
        except CorruptSample as error:
            reason = str(error) if index == 0 else reason
    raise UserError(
        f"none of the {len(dataset)} samples of {dataset.name} can be read; the first: {reason}"
    )


def _short(text: str) -> str:
    """A text on one line of a terminal; empty ones are shown as such."""
    line = " ".join(text.split())
    return f"{line[:SHOWN]}… ({len(text):,} characters)" if len(line) > SHOWN else line or '""'


def _size(image: Tensor) -> str:
    channels, height, width = image.shape
    return f"{channels} channel(s), {height} x {width} pixels"


def class_counts(dataset: Dataset) -> Counter[int] | None:
    """How many samples each class has, where the labels are known without decoding images."""
    labels = getattr(dataset, "labels", None)
    if labels is None:
        return None
    return Counter(labels.tolist() if isinstance(labels, Tensor) else labels)


def check_all(dataset: Dataset) -> list[str]:
    """Decode every sample; why each unreadable one cannot be read."""
    bad = []
    for index in range(len(dataset)):
        try:
            dataset[index]
        except CorruptSample as error:
            bad.append(str(error))
    return bad


def write_grid(dataset: Dataset, path: Path, *, count: int = 64, side: int = 96) -> None:
    """A PNG of ``count`` samples spread evenly over the dataset, eight images to a row; of edits,
    image and edited image side by side."""
    from PIL import Image

    chosen = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().long()
    transform = TransformConfig(resolution=side).build()
    loader = Loader(
        subset(dataset, chosen), transform, batch_size=count, seed=0, corrupt_budget=count
    )
    keys = ("image", "target") if has_edits(dataset) else ("image",)
    shown = [torch.stack([batch[key] for key in keys], 1) for batch in loader.epoch()]
    images = torch.cat(shown).flatten(0, 1)
    pixels = grid(images).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    with atomic_path(path) as tmp:
        Image.fromarray(pixels.numpy()).save(tmp, format="PNG")


def grid(images: Tensor, columns: int = 8) -> Tensor:
    """[N, C, H, W] → one picture [C, rows*H, columns*W]; empty places are white."""
    columns = min(columns, len(images))
    empty = images.new_ones(-len(images) % columns, *images.shape[1:])
    n, c, h, w = (full := torch.cat([images, empty])).shape
    rows = full.view(n // columns, columns, c, h, w)
    return rows.permute(2, 0, 3, 1, 4).reshape(c, n // columns * h, columns * w)
