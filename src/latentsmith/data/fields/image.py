"""Images (and lines, and volumes) as fields: exact means over cells of any size, anywhere.

An image is constant on its pixels, so the mean over a box is four reads of its integral image
(2^d corners), each linear between nodes, and exact. Three cases of the one formula:

* cell centers of a lattice: area averages, as of three by three pixels from 96 to 32, or of one
  and a half by one and a half from 96 to 64 (``F.interpolate(mode="area")`` is not that: it takes
  whole pixels, which then overlap);
* cells of the image's own pixels anywhere: linear interpolation between pixel centers;
* cells of any other size anywhere: the antialiased value there, with the original's detail.

Boxes are cut at the border of the domain.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.data.fields.coordinates import Resolution, sizes
from latentsmith.errors import UserError


class LatticeField:
    """Values on a lattice as a field (`latentsmith.data.fields.base.Field`).

    Args:
        values: [B, C, *size] floating point with 1, 2 or 3 axes after the channels.
        what: what they are called in messages.

    Raises:
        UserError: another shape or dtype.
    """

    def __init__(self, values: Tensor, *, what: str = "values"):
        if not values.is_floating_point() or not 3 <= values.ndim <= 5:
            raise UserError(
                f"{what} of a field must be floating point [B, C, …] with 1, 2 or 3 axes, "
                f"got {str(values.dtype).removeprefix('torch.')} {list(values.shape)}."
            )
        self.values, self.what = values, what
        self.dims, self.channels, self.device = values.ndim - 2, values.shape[1], values.device
        self.size = tuple(values.shape[2:])
        self._integral: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    def lattice(self, resolution: Resolution) -> Tensor:
        """Means over the cells of a lattice: [B, C, *resolution]. Raises UserError: see `at`."""
        self._check(resolution)
        each = sizes(resolution, self.dims)
        if each == self.size:
            return self.values
        shares = zip(each, self.size, strict=True)
        return _along_axes(self.values, [_overlaps(*pair) for pair in shares])

    def at(self, coordinates: Tensor, resolution: Resolution) -> Tensor:
        """Means over cells of ``resolution`` around coordinates [B, M, d] in [-1, 1] → [B, M, C].

        Raises:
            UserError: finer than the values themselves, which know nothing there.
        """
        self._check(resolution)
        points = coordinates.double()
        half = 1 / torch.tensor(
            sizes(resolution, self.dims), dtype=torch.float64, device=self.device
        )
        low, high = (points - half).clamp_min(-1), (points + half).clamp_max(1)
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        for corner in itertools.product((False, True), repeat=self.dims):
            upper = torch.tensor(corner, device=self.device)
            sign = -1 if (self.dims - sum(corner)) % 2 else 1
            total = total + sign * self._read(torch.where(upper, high, low))
        extent = (high - low).prod(-1, keepdim=True)
        return (total / extent).to(self.values.dtype)

    def _read(self, points: Tensor) -> Tensor:
        """The integral from the lower corner to each point: [B, M, d] → float64 [B, M, C]."""
        if self._integral is None:
            self._integral = _integrate(self.values)
        where = points.flip(-1)  # grid_sample names the last axis first
        if self.dims == 1:  # and knows no lines: a line is an image of one row
            where = torch.cat([where, torch.zeros_like(where)], -1)
        shape = (len(self), *(1,) * (max(self.dims, 2) - 1), points.shape[1], where.shape[-1])
        found = F.grid_sample(
            self._integral, where.view(shape), mode="bilinear", align_corners=True
        )
        return found.flatten(2).transpose(1, 2)

    def _check(self, resolution: Resolution) -> None:
        each = sizes(resolution, self.dims)
        if any(asked > have for asked, have in zip(each, self.size, strict=True)):
            raise UserError(
                f"no truth at resolution {_by(each)}: the {self.what} are {_by(self.size)}, and "
                f"enlarged {self.what} are no ground truth. Ask for at most {_by(self.size)}, or "
                "take data of a higher resolution."
            )


class ImageField(LatticeField):
    """A batch of images as a field.

    Args:
        images: [B, C, H, W] in [-1, 1] (the range is not checked).

    Raises:
        UserError: another shape or dtype.
    """

    def __init__(self, images: Tensor):
        if images.ndim != 4:
            raise UserError(f"images must be [B, C, H, W], got {list(images.shape)}.")
        super().__init__(images, what="images")


def _integrate(values: Tensor) -> Tensor:
    """Integral over [-1, x] at the corners of all cells: float64 [B, C, size + 1, …]; lines become
    images of one row. float32 would lose 1e-4 in the differences."""
    sums = [torch.ones(n + 1, n, dtype=torch.float64).tril(-1) * (2 / n) for n in values.shape[2:]]
    total = _along_axes(values.double(), sums)
    return total[:, :, None] if total.ndim == 3 else total


def _overlaps(cells: int, pixels: int) -> Tensor:
    """Share of each pixel in the mean over each cell of one axis: float64 [cells, pixels]."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * (pixels / cells)
    low, high = edges[:-1, None], edges[1:, None]
    left = torch.arange(pixels, dtype=torch.float64)
    shared = torch.minimum(high, left + 1) - torch.maximum(low, left)
    return shared.clamp_min(0) * (cells / pixels)


def _along_axes(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Matrix k [out, in] applied to axis k of [B, C, …]."""
    for dim, matrix in enumerate(matrices, 2):
        out = values.movedim(dim, -1) @ matrix.to(values).T
        values = out.movedim(-1, dim)
    return values.contiguous()


def _by(each: tuple[int, ...]) -> str:
    return " x ".join(map(str, each))
