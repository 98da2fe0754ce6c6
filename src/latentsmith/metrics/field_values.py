"""How far apart are two sets of values of fields, in decibels?

Values lie in [-1, 1], so the peak is 2. Nothing is rounded to 8 bits: two decodings of one code
must agree to 80 dB and more, where 8 bits end at 50.
"""

import torch
from torch import Tensor

from latentsmith.data.fields.coordinates import sizes
from latentsmith.data.fields.image import LatticeField
from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.reconstruction import psnr_per_image, to_8bit
from latentsmith.metrics.registry import metric
from latentsmith.metrics.ssim import ssim_per_image

LEAST_ERROR = 1e-12
"""Mean squared error below which two values are the same: 126 dB."""
MOST_DECIBELS = 126.02059991327963


def check_fields(field: Tensor, field_ref: Tensor) -> None:
    """Raises UserError unless both are finite [N, C, …] of one shape with 1 to 3 axes."""
    if field.shape != field_ref.shape or not 3 <= field.ndim <= 5:
        raise UserError(
            "fields that are compared must have one shape [N, C, …] with 1 to 3 axes, "
            f"got {list(field.shape)} and {list(field_ref.shape)}."
        )
    check_count(len(field), 1, "comparing fields", "field")
    check_finite(field, "fields")
    check_finite(field_ref, "true fields")


def squared_error(values: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of each sample: [N, …] twice → float64 [N]."""
    return (values.double() - other.double()).square().flatten(1).mean(1)


def decibels(mse: Tensor) -> Tensor:
    """PSNR at peak 2 of mean squared errors, at most 126 dB."""
    return 10 * (4 / mse.clamp_min(LEAST_ERROR)).log10()


def agreement_per_sample(field: Tensor, field_ref: Tensor) -> Tensor:
    """PSNR [N] between two versions of each field; see `agreement`."""
    check_fields(field, field_ref)
    return decibels(squared_error(field, field_ref))


@metric(
    "agreement",
    help="PSNR between two decodings of the same points (126 dB: equal)",
    inputs=("field", "field_ref"),
    higher_is_better=True,
    unit="dB",
    best=MOST_DECIBELS,
    per_sample=agreement_per_sample,
)
def agreement(field: Tensor, field_ref: Tensor) -> float:
    """Mean over samples of 10 log10(4 / mean squared difference). No truth is needed.

    Args:
        field, field_ref: [N, C, …] in [-1, 1], e.g. the two of `across_scales`.

    Raises:
        UserError: shapes differ, NaN.
    """
    return float(agreement_per_sample(field, field_ref).mean())


def across_scales(fine: Tensor, coarse: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs that agree when a decoder is one function: for `agreement`.

    ``points``: the fine decoding at the points that are also in the coarse one (pixel centers nest
    for odd ratios: 32 in 96); ``boxes``: its means over the coarse cells. Values of a decoder of
    point values agree in the first, of one of cell means (told the cell's size) in the second.

    Args:
        fine, coarse: [N, C, …], the fine resolution an odd multiple of the coarse one.

    Raises:
        UserError: another ratio, ranks that differ.
    """
    dims = coarse.ndim - 2
    ratio = fine.shape[-1] // coarse.shape[-1]
    if fine.shape[:2] != coarse.shape[:2] or fine.ndim != coarse.ndim:
        raise UserError(f"decodings {list(fine.shape)} and {list(coarse.shape)} differ in kind.")
    if ratio % 2 == 0 or tuple(fine.shape[2:]) != tuple(ratio * n for n in coarse.shape[2:]):
        raise UserError(
            f"points of {list(coarse.shape[2:])} are not among those of {list(fine.shape[2:])}: "
            "the ratio must be odd (1, 3, 5…), as of 32 and 96."
        )
    nested = fine[(..., *(slice(ratio // 2, None, ratio),) * dims)]
    means = LatticeField(fine).lattice(sizes(tuple(coarse.shape[2:]), dims))
    return {"points": (nested, coarse), "boxes": (means, coarse)}


def fidelity(field: Tensor, field_ref: Tensor) -> dict[str, Tensor]:
    """``psnr`` and ``ssim`` [N] of images [N, C, H, W] in [-1, 1], by the metrics of those names
    (8 bits). SSIM is left out below 11 pixels.

    Raises UserError: see `latentsmith.metrics.reconstruction.psnr`."""
    found, true = ((x.detach() + 1) / 2 for x in (field, field_ref))
    scores = {"psnr": psnr_per_image(true, found)}
    if min(field.shape[-2:]) >= 11:
        scores["ssim"] = ssim_per_image(true, found)
    return scores


def _among(field: Tensor, field_ref: Tensor, known: Tensor, asked: bool) -> Tensor:
    """PSNR [N] over the points where ``known`` is ``asked``."""
    check_fields(field, field_ref)
    points = field[0, 0].numel()
    if known.shape != (len(field), points) or known.dtype != torch.bool:
        raise UserError(
            f"known must be bool [N, L] = [{len(field)}, {points}] in raster order, "
            f"got {known.dtype} {list(known.shape)}."
        )
    where = known if asked else ~known
    counts = where.sum(1)
    if not counts.all():
        word = "known" if asked else "unknown"
        raise UserError(
            f"sample {int((counts == 0).nonzero()[0])} has no {word} point: each needs at least 1."
        )
    found, true = (to_8bit((x.double() + 1) / 2).flatten(2) for x in (field, field_ref))
    error = (found - true).square().sum(1) * where
    values = counts * field.shape[1]
    # as `psnr`: an error-free sample gets one grey level in one value
    return -10 * torch.maximum(error.sum(1) / values, (1 / 255) ** 2 / values).log10()


def observed_per_sample(field: Tensor, field_ref: Tensor, known: Tensor) -> Tensor:
    """PSNR [N] at the known points."""
    return _among(field, field_ref, known, True)


def unobserved_per_sample(field: Tensor, field_ref: Tensor, known: Tensor) -> Tensor:
    """PSNR [N] at the points that are not known."""
    return _among(field, field_ref, known, False)


@metric(
    "observed_psnr",
    help="PSNR at the points a model was given, on 8-bit rounded values",
    inputs=("field", "field_ref", "known"),
    higher_is_better=True,
    unit="dB",
    per_sample=observed_per_sample,
)
def observed_psnr(field: Tensor, field_ref: Tensor, known: Tensor) -> float:
    """Mean PSNR over samples at the known points: how well a model keeps what it was told.

    Args:
        field, field_ref: [N, C, …] in [-1, 1], found and true. known: bool [N, L].

    Raises:
        UserError: shapes differ, NaN, a sample without known points.
    """
    return float(observed_per_sample(field, field_ref, known).mean())


@metric(
    "unobserved_psnr",
    help="PSNR at the points a model was not given, on 8-bit rounded values",
    inputs=("field", "field_ref", "known"),
    higher_is_better=True,
    unit="dB",
    per_sample=unobserved_per_sample,
)
def unobserved_psnr(field: Tensor, field_ref: Tensor, known: Tensor) -> float:
    """Mean PSNR over samples at the points between. Arguments and errors: as `observed_psnr`."""
    return float(unobserved_per_sample(field, field_ref, known).mean())
