"""How well does a segmentation agree with the true class of every pixel?

    IoU_k = |found k and true k| / |found k or true k|,  over the pixels of all images

Intervals are over images: pixels of one image are not independent.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count
from latentsmith.metrics.intervals import bootstrap_weights
from latentsmith.metrics.registry import metric


def _check(predicted_labels: Tensor, pixel_labels: Tensor) -> None:
    """Two integer tensors [N, H, W] of one shape, no label negative."""
    for x, name in ((predicted_labels, "predicted_labels"), (pixel_labels, "pixel_labels")):
        if x.ndim != 3 or x.is_floating_point():
            kind = str(x.dtype).removeprefix("torch.")
            raise UserError(
                f"{name} must be an integer tensor [N, H, W], got {kind} {list(x.shape)}"
            )
        check_count(x.numel(), 1, "a segmentation", "pixel")
        if int(x.min()) < 0:
            raise UserError(
                f"{name} hold {int(x.min())}: classes are 0, 1, … and every pixel counts, so give "
                "pixels of no class a class of their own"
            )
    if predicted_labels.shape != pixel_labels.shape:
        raise UserError(
            f"predicted_labels {list(predicted_labels.shape)} against pixel_labels "
            f"{list(pixel_labels.shape)}: both must be of the same images, at one size"
        )


def label_counts(predicted_labels: Tensor, pixel_labels: Tensor, *, classes: int = 1) -> Tensor:
    """Pixels of each class found and true, found, true: float64 [N, 3, K].

    Args:
        predicted_labels, pixel_labels: int [N, H, W].
        classes: K, or 1 + the largest label where that is more.

    Raises:
        UserError: other shapes, labels that are negative or not whole numbers.
    """
    _check(predicted_labels, pixel_labels)
    classes = max(classes, 1 + int(predicted_labels.max()), 1 + int(pixel_labels.max()))
    parts = zip(predicted_labels.split(64), pixel_labels.split(64), strict=True)
    return torch.cat([_counts(*part, classes) for part in parts])


def _counts(found: Tensor, true: Tensor, classes: int) -> Tensor:
    """`label_counts` of a batch."""
    found, true = found.flatten(1), true.flatten(1)  # [B, P]
    row = classes * torch.arange(len(found), device=found.device)[:, None]
    size = len(found) * classes
    hits = torch.bincount((row + true)[found == true], minlength=size)
    sides = [torch.bincount((row + x).flatten(), minlength=size) for x in (found, true)]
    return torch.stack([x.view(-1, classes) for x in (hits, *sides)], 1).double()


def class_iou(counts: Tensor) -> Tensor:
    """IoU of each class from pixel counts [..., 3, K] (`label_counts`, summed over images):
    [..., K] in [0, 1]; NaN for a class that is neither found nor true."""
    hits, found, true = counts.unbind(-2)
    return hits / (found + true - hits)


def _mean(counts: Tensor) -> Tensor:
    return class_iou(counts).nanmean(-1)


def _replicates(
    predicted_labels: Tensor, pixel_labels: Tensor, *, value: float, replicates: int, seed: int
) -> Tensor | None:
    """Of few images a replicate may leave a class out: it is the mean of the others then."""
    counts = label_counts(predicted_labels, pixel_labels).cpu()
    if len(counts) < 2:
        return None
    weights = bootstrap_weights(len(counts), replicates, seed)
    return _mean(torch.einsum("nr,nck->rck", weights, counts))


def _commonest(compute: Callable[[Tensor, Tensor], float]) -> Callable[..., Any]:
    """The chance level of ``compute``: every pixel takes the commonest class."""

    def chance(
        predicted_labels: Tensor, pixel_labels: Tensor, *, seed: int
    ) -> tuple[float, dict[str, Any]]:
        commonest = pixel_labels.flatten().long().bincount().argmax()
        everywhere = commonest.to(pixel_labels.dtype).expand_as(pixel_labels)
        return compute(everywhere, pixel_labels), {"chance": "commonest class"}

    return chance


def _mean_iou(predicted_labels: Tensor, pixel_labels: Tensor) -> float:
    return float(_mean(label_counts(predicted_labels, pixel_labels).sum(0)))


@metric(
    "mean_iou",
    help="mean over classes of intersection over union of a segmentation's pixels (mIoU)",
    inputs=("predicted_labels", "pixel_labels"),
    higher_is_better=True,
    best=1.0,
    replicates=_replicates,
    baseline=_commonest(_mean_iou),
)
def mean_iou(predicted_labels: Tensor, pixel_labels: Tensor) -> float:
    """Mean of IoU_k over the classes that are found or true somewhere (PASCAL VOC, Everingham et
    al. 2010; pixels are pooled over images first). Every class counts alike, however small.

    Args:
        predicted_labels, pixel_labels: int [N, H, W], found and true.

    Raises:
        UserError: other shapes, labels that are negative or not whole numbers.
    """
    return _mean_iou(predicted_labels, pixel_labels)


def accuracy_per_image(predicted_labels: Tensor, pixel_labels: Tensor) -> Tensor:
    """Share of each image's pixels whose class is found [N]; arguments as `mean_iou`."""
    _check(predicted_labels, pixel_labels)
    return (predicted_labels == pixel_labels).flatten(1).double().mean(1)


def _accuracy(predicted_labels: Tensor, pixel_labels: Tensor) -> float:
    return float(accuracy_per_image(predicted_labels, pixel_labels).mean())


@metric(
    "pixel_accuracy",
    help="share of pixels whose class a segmentation finds",
    inputs=("predicted_labels", "pixel_labels"),
    higher_is_better=True,
    best=1.0,
    per_sample=accuracy_per_image,
    baseline=_commonest(_accuracy),
)
def pixel_accuracy(predicted_labels: Tensor, pixel_labels: Tensor) -> float:
    """Share of all pixels that are labelled right; a large background alone makes it high.
    Arguments: as `mean_iou`."""
    return _accuracy(predicted_labels, pixel_labels)
