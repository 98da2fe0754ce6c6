"""Captioned shapes as fields: truth at every coordinate and every resolution.

The renderer's own formula (coverage 1/2 - d with d the signed distance to the outline in pixels),
evaluated at any point for any size of pixel: on the lattice of a resolution it is what
`latentsmith.data.shapes.render.render` draws there, but for its rounding to 8 bits.
"""

import torch
from torch import Tensor

from latentsmith.data.fields.coordinates import Resolution, grid, sizes
from latentsmith.data.shapes.render import OUTLINES
from latentsmith.data.shapes.scene import BACKGROUND_RGB, COLOR_RGB, SHAPES
from latentsmith.errors import UserError

NEEDED = ("shape", "color", "x", "y", "radius", "turn", "background")


class ShapesField:
    """A batch of scenes as a field (`latentsmith.data.fields.base.Field`), RGB in [-1, 1].

    Args:
        factors: of B scenes, as `latentsmith.data.shapes.factors.factor_tensors` gives them and
            batches of the ``shapes`` dataset carry them (``batch["factors"]``), on any device.

    Raises:
        UserError: a factor is missing.
    """

    dims, channels = 2, 3

    def __init__(self, factors: dict[str, Tensor]):
        if missing := [name for name in NEEDED if name not in factors]:
            raise UserError(
                f"a field of shapes needs factors {', '.join(NEEDED)}; {', '.join(missing)} "
                "missing: take batches of the shapes dataset."
            )
        self.factors = factors
        self.device = factors["shape"].device

    def __len__(self) -> int:
        return len(self.factors["shape"])

    def lattice(self, resolution: Resolution) -> Tensor:
        """[B, 3, R, R] in [-1, 1]. Raises UserError: see `at`."""
        each = sizes(resolution, self.dims)
        points = grid(each, self.dims, self.device).expand(len(self), -1, -1)
        return self.at(points, each).transpose(1, 2).unflatten(2, each)

    def at(self, coordinates: Tensor, resolution: Resolution) -> Tensor:
        """Colors [B, M, 3] of pixels of ``resolution`` around coordinates [B, M, 2].

        Raises:
            UserError: another number of pixels along the two axes.
        """
        height, width = sizes(resolution, self.dims)
        if height != width:
            raise UserError(f"shapes are drawn on squares, not on {height} x {width}.")
        palette = torch.tensor(BACKGROUND_RGB, device=self.device, dtype=torch.float32)
        out = palette[self.factors["background"]][:, None, :]
        colors = torch.tensor(COLOR_RGB, device=self.device, dtype=torch.float32)
        for slot in range(2):
            color = colors[self.factors["color"][:, slot].clamp_min(0)][:, None, :]
            covered = self._coverage(coordinates, slot, height)[:, :, None]
            out = out + covered * (color - out)
        return out / 127.5 - 1

    def _coverage(self, coordinates: Tensor, slot: int, resolution: int) -> Tensor:
        """Share of each pixel that the object of a slot covers: [B, M] in [0, 1]."""
        kind = self.factors["shape"][:, slot]
        x, y, radius, turn = (
            self.factors[name][:, slot, None] for name in ("x", "y", "radius", "turn")
        )
        radius = radius.clamp_min(1e-6)  # 0 in an empty slot
        dy, dx = ((coordinates + 1) / 2).unbind(-1)  # fractions of the side, as the factors
        dx, dy = (dx - x) / radius, (dy - y) / radius
        cos, sin = torch.deg2rad(turn).cos(), torch.deg2rad(turn).sin()
        u, v = cos * dx + sin * dy, cos * dy - sin * dx  # turned back by the object's rotation
        distance = torch.full_like(u, torch.inf)
        for number, name in enumerate(SHAPES):
            distance = torch.where((kind == number)[:, None], OUTLINES[name](u, v), distance)
        return (0.5 - distance * radius * resolution).clamp(0, 1)
