"""A linear classifier of pixels on frozen feature maps.

A pixel's features are the map, resized bilinearly to the size of the labels. The classifier is the
linear probe's (`latentsmith.metrics.probes`): standardized features, multinomial logistic
regression, L2 strength chosen on held-out training *images*. Full-size features are never made:

* fitting looks at a few pixels of each image, and interpolates at these only;
* a linear map and bilinear interpolation commute (its weights sum to one), so the classifier runs
  on the tokens and its scores are resized: K numbers a pixel and not D.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite, check_labels, check_paired
from latentsmith.metrics.probes import best_logistic, column_scale, split
from latentsmith.utils.seeding import generator

Over = Literal["area", "classes"]
"""What of an image the drawn pixels are spread over evenly: where a class is a few percent of all
images, pixels by area teach a weak classifier to answer with the background."""


@dataclass(frozen=True)
class PixelProbe:
    """A fitted classifier: scores ``x W + b`` of a pixel's features x [D]."""

    weight: Tensor
    """float64 [D + 1, K] on raw features, the last row the bias."""
    classes: Tensor
    """int64 [K]: the label each column stands for."""

    def predict(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Feature maps [B, D, h, w] → the likeliest class of every pixel, int64 [B, *size].

        Raises:
            UserError: NaN, or maps of another width than was fitted.
        """
        check_finite(maps, "test maps")
        if maps.shape[1] != len(self.weight) - 1:
            raise UserError(
                f"train maps are {len(self.weight) - 1} wide and test maps {maps.shape[1]}"
            )
        weight = self.weight.to(maps.device)
        scores = torch.einsum("bdhw,dk->bkhw", maps.double(), weight[:-1])
        scores = F.interpolate(scores + weight[-1].view(-1, 1, 1), size, mode="bilinear")
        return self.classes.to(maps.device)[scores.argmax(1)]


def fit_pixel_probe(
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    pixels: int = 32,
    over: Over = "area",
    seed: int = 0,
) -> PixelProbe:
    """Fit on pixels drawn from each image.

    Args:
        batches: feature maps [B, D, h, w] with the pixels' classes int [B, H, W]; kept are
            ``pixels`` x D numbers an image. What is drawn does not depend on the batches.
        pixels: pixels of each image (all, where it has fewer).
        over: drawn evenly over its area, or over the classes it has.
        seed: seeds which.

    Raises:
        UserError: NaN, fewer than 10 images, features that are constant, one class only.
    """
    features, labels, images = [], [], 0
    for maps, of_pixels in batches:
        check_finite(maps, "train maps")
        check_paired(maps, of_pixels, "train maps", "pixel labels")
        where = _draw(range(images, images + len(maps)), of_pixels.flatten(1), pixels, over, seed)
        features.append(features_at(maps, where, (of_pixels.shape[1], of_pixels.shape[2])))
        labels.append(of_pixels.flatten(1).gather(1, where.to(of_pixels.device)))
        images += len(maps)
    check_count(images, 10, "a segmentation probe", "training images")
    x = torch.cat(features)  # [images, P, D]
    return _fit(x, torch.cat(labels).to(x.device))


def _draw(images: Iterable[int], labels: Tensor, pixels: int, over: Over, seed: int) -> Tensor:
    """``pixels`` different pixel numbers for each image, of classes [B, A]: int64 [B, P]."""
    streams = [generator("probe pixels", seed, image) for image in images]
    area = labels.shape[1]
    if over == "area":
        return torch.stack([torch.randperm(area, generator=gen)[:pixels] for gen in streams])
    return torch.stack(
        [
            _by_class(of_image, pixels, gen)
            for of_image, gen in zip(labels.cpu(), streams, strict=True)
        ]
    )


def _by_class(labels: Tensor, pixels: int, rng: torch.Generator) -> Tensor:
    """Pixel numbers [P], without repeating one, each as likely as its class [A] is rare.

    The smallest of exponential waiting times are a weighted draw without replacement (Efraimidis &
    Spirakis 2006).
    """
    _, place, counts = labels.unique(return_inverse=True, return_counts=True)
    waits = torch.empty(len(labels), dtype=torch.float64).exponential_(generator=rng)
    return (waits * counts[place]).argsort()[:pixels]


def features_at(maps: Tensor, where: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B, D, h, w] resized bilinearly to ``size``, at pixels ``where`` int64 [B, P] (row by
    row) only: [B, P, D], as ``F.interpolate`` gives them."""
    height, width = size
    where = where.to(maps.device)
    x, y = (where % width).to(maps), (where // width).to(maps)
    # From -1 to 1 over the image, edge to edge; beyond the outermost centers the map goes on as is.
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    found = F.grid_sample(
        maps, grid[:, None], mode="bilinear", padding_mode="border", align_corners=False
    )  # [B, D, 1, P]
    return found[:, :, 0].mT


def _fit(x: Tensor, labels: Tensor) -> PixelProbe:
    """From features [images, P, D] and their labels [images, P]."""
    images, pixels, width = x.shape
    x = x.flatten(0, 1)
    classes, y = check_labels(labels.flatten(), len(x), "pixel labels").unique(return_inverse=True)
    live, mean, std = column_scale(x.double())
    rows = torch.arange(images * pixels).view(images, pixels)
    # pixels of one image are alike: all of them choose the strength, or none
    fit, held = (rows[part].flatten().to(x.device) for part in split(images))
    scaled = x[:, live].sub_(mean).div_(std).float()  # in place: x may be a gigabyte
    fitted = best_logistic(scaled, y, len(classes), fit, held).double()
    weight = fitted.new_zeros(width + 1, len(classes))
    weight[:-1][live] = fitted[:-1] / std[:, None]
    weight[-1] = fitted[-1] - (mean / std) @ fitted[:-1]
    return PixelProbe(weight, classes)
