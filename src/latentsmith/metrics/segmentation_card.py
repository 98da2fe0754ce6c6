"""What an encoder's tokens tell a linear classifier about single pixels, as a card."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.base import Dataset
from latentsmith.data.loader import Loader
from latentsmith.data.segments import segment_names, segments_of
from latentsmith.data.transforms import Transform, center_box, crop
from latentsmith.encoders.base import Encoder
from latentsmith.errors import UserError
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.pixel_probe import Over, fit_pixel_probe
from latentsmith.metrics.segmentation import class_iou, label_counts

Features = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] in [0, 1] → feature maps [B, D, h, w]."""


@schema
class SegmentationConfig:
    """How a segmentation probe is made."""

    pixels: Annotated[int, Field(ge=1)] = 32
    """Pixels of each training image the classifier is fitted on. Memory: about 30 bytes for each,
    times images, times the features' width."""
    over: Over = "area"
    """Pixels are drawn evenly over the area of an image, or over the classes it has: classes, where
    some are a few percent of all pixels."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Images per call of the encoder."""
    resamples: int = 200
    """Bootstrap replicates behind each interval."""
    seed: int = 0
    """Seeds pixels and bootstrap."""


def measure_segmentation(
    encoder: Encoder,
    train: Dataset,
    test: Dataset,
    transform: Transform,
    *,
    controls: bool = True,
    cfg: SegmentationConfig | None = None,
) -> LatentCard:
    """``mean_iou`` and ``pixel_accuracy`` of a linear classifier on the encoder's tokens.

    The IoU of each class [K] is in ``figures["class_iou_<space>"]``, NaN for a class that is
    neither found nor true. Cards of two encoders of one kind (two times of a denoiser) have paired
    intervals: `latentsmith.metrics.card.joint_difference`.

    Args:
        encoder: any with tokens, on the device to use.
        train, test: images with the class of every pixel (`latentsmith.data.segments`).
        transform: how the encoder sees images, without chance. Labels keep their resolution.
        controls: also each pixel's own colour as its features, under the space ``pixels``.

    Raises:
        UserError: an encoder without tokens or that gives NaN; a random transform; data without
            classes of pixels, of two kinds, or fewer than 10 training images.
    """
    cfg = cfg or SegmentationConfig()
    _check(encoder, train, test, transform)
    device = next(chain(encoder.parameters(), encoder.buffers()), torch.empty(0)).device
    spaces: dict[str, Features] = {encoder.name: lambda images: encoder.maps(images.to(device))}
    described: dict[str, object] = {encoder.name: encoder.fingerprint()}
    if controls:
        spaces["pixels"], described["pixels"] = lambda images: images, "colour of each pixel"
    card, classes = LatentCard(), len(segment_names(test))
    for space, features in spaces.items():
        found, true = _segment(features, train, test, transform, cfg)
        stamp = Stamp(
            data=test.name,
            count=len(true),
            space=space,
            detail={
                "features": described[space],
                "transform": transform.fingerprint(),
                "train": train.name,
                "train_count": len(train),
                "pixels": cfg.pixels,
                "over": cfg.over,
                "classes": classes,
            },
        )
        how: dict[str, Any] = {"resamples": cfg.resamples, "seed": cfg.seed}
        for metric in ("mean_iou", "pixel_accuracy"):
            card.add(metric, found, true, stamp=stamp, space=space, **how)
        card.figures[f"class_iou_{space}"] = class_iou(
            label_counts(found, true, classes=classes).sum(0)
        )
    return card


def _check(encoder: Encoder, train: Dataset, test: Dataset, transform: Transform) -> None:
    """Before anything is computed."""
    encoder.check_tokens()
    if not transform.deterministic:
        raise UserError(
            "a segmentation probe needs images where their labels are: use a transform without "
            "crop=random and flip=true (TransformConfig.deterministic)"
        )
    names = segment_names(train), segment_names(test)
    if names[0] != names[1]:
        raise UserError(
            f"pixels of {train.name} are of {', '.join(names[0])}; those of {test.name} of "
            f"{', '.join(names[1])}: train and test on the same classes"
        )


def _segment(
    features: Features,
    train: Dataset,
    test: Dataset,
    transform: Transform,
    cfg: SegmentationConfig,
) -> tuple[Tensor, Tensor]:
    """Classes found and true of the test images' pixels, int32 [N, H, W] on the CPU."""
    shown = _maps(features, train, transform, cfg)
    probe = fit_pixel_probe(shown, pixels=cfg.pixels, over=cfg.over, seed=cfg.seed)
    found, true = [], []
    for maps, labels in _maps(features, test, transform, cfg):
        size = (labels.shape[1], labels.shape[2])
        found.append(probe.predict(maps, size).cpu().int())
        true.append(labels.int())
    return torch.cat(found), torch.cat(true)


def _maps(
    features: Features, dataset: Dataset, transform: Transform, cfg: SegmentationConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """Feature maps [B, D, h, w] and classes of pixels int64 [B, H, W], in dataset order."""
    loader = Loader(dataset, transform, batch_size=cfg.batch_size, seed=0, shuffle=False)
    for batch in loader.epoch():
        labels = segments_of(dataset, batch["index"])
        if transform.cfg.crop == "center":
            labels = crop(labels, center_box(labels.shape[1], labels.shape[2]))
        yield features(batch["image"]), labels
