"""Kriging before learning: the surface through the given values, read as planes, and blended.

    surface: f(q) = b + Σ_n w_n γ(|q − c_n|),   γ(r) = −r^α,   Σ_n w_n = 0
             through the values but for a nugget ν:  f(c_n) − ν w_n = y_n
    plane:   v = f(a),  s = spacing · ∇f(a)
    blend:   value(q) = Σ_k softmax(−|q − a_k|² / 2ρ²) (v_k + s_k · (q − a_k) / spacing)

Ordinary kriging with a power variogram (Matheron 1963; Cressie, Statistics for Spatial Data, 1993):
the best linear prediction of a field whose differences over r have the variance r^α, at no scale of
its own. On photographs it is at thin-plate splines' level, above Delaunay's triangles. Where a
token's first numbers are such a plane and decoding starts from their blend, a network begins where
interpolation ends, and learns what is missing. α, ν and ρ are learned with it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.autoencoders.field.features import Nearness, squared_distances
from latentsmith.backbones.mixers.points import Points

POWER, NUGGET = 1.8, 0.01
"""α, and ν in units of γ at a token's spacing, at the start."""
CLOSEST = 1e-4
"""Of a spacing: points nearer than that count as so near, for the slope of r^α at 0."""
BLEND = 0.3
"""ρ at the start, in distances of the tokens."""
FAINT = 1e-3
"""Contrast below which a field counts as having so much."""


def plane_numbers(channels: int, dims: int) -> int:
    """Numbers of a plane: value and slopes."""
    return channels * (1 + dims)


def measure(planes: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """What a field's values are measured by, from its planes [B, K, C (1 + d)].

    Returns:
        level [B, 1, C]: the mean value; contrast [B, 1, 1]: root mean square of the slopes, at
        least `FAINT`. Of a y + b these are a level + b, and a contrast: a network that sees
        (y − level) / contrast and answers in units of the contrast does the same to faint and to
        strong fields, and disturbs a smooth one little.
    """
    value, slopes = planes.float().split([channels, planes.shape[-1] - channels], -1)
    contrast = slopes.square().mean((1, 2), keepdim=True).clamp_min(FAINT**2).sqrt()
    return value.mean(1, keepdim=True), contrast


def standardized(tokens: Tensor, channels: int, level: Tensor, contrast: Tensor) -> Tensor:
    """Tokens [B, K, z] whose first numbers are a plane's, of a field of level 0 and contrast 1."""
    rest = tokens.shape[-1] - channels
    return (tokens.float() - F.pad(level, (0, rest))) / contrast


class Kriging(nn.Module):
    """Planes at some points of the surface through values at others: see the module's text.

    Solving for N points takes N³ operations, in float64: a matrix of r^α is close to singular.

    Args:
        spacing: distance of the points that planes are read at: the unit of their slopes.
    """

    def __init__(self, spacing: float):
        super().__init__()
        self.spacing = spacing
        self.power_logit = nn.Parameter(torch.empty(1))  # α = 2 sigmoid, between 0 and 2
        self.log_nugget = nn.Parameter(torch.empty(1))

    def reset(self) -> None:
        """Set α and ν to their start."""
        with torch.no_grad():
            self.power_logit.fill_(POWER / 2).logit_()
            self.log_nugget.fill_(NUGGET).log_()

    def forward(self, at: Points, points: Points, values: Tensor) -> Tensor:
        """Values [B, N, C] at ``points`` → [B, M, C (1 + d)] at ``at``, float32: C values, then C
        slopes a ``spacing`` along each dimension. One point gives its value everywhere."""
        with torch.autocast(values.device.type, enabled=False):
            # in spacings, so that the nugget means the same on every lattice
            a, c = (x.coordinates.double() / self.spacing for x in (at, points))
            weights, mean = self._solve(c, values.double())  # [B, N, C], [B, 1, C]
            apart = squared_distances(a, c).clamp_min(CLOSEST**2)
            rising = apart ** (self._power() / 2)  # r^α, [B, M, N]
            surface = mean - rising @ weights
            slopes = self._slopes(a, c, rising / apart, weights)  # [B, M, d, C]
            return torch.cat([surface, slopes.flatten(2)], dim=-1).float()

    def _power(self) -> Tensor:
        return 2 * self.power_logit.double().sigmoid()

    def _solve(self, c: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [B, N, C] that sum to 0, and the constant [B, 1, C]."""
        count = c.shape[1]
        rows = torch.zeros(len(c), count + 1, count + 1, dtype=c.dtype, device=c.device)
        nugget = self.log_nugget.double().exp() * torch.eye(count, dtype=c.dtype, device=c.device)
        # a zero to a learned power has no gradient
        rows[:, :count, :count] = nugget - squared_distances(c, c).clamp_min(1e-24) ** (
            self._power() / 2
        )
        rows[:, :count, count] = rows[:, count, :count] = 1
        wanted = torch.cat([y, y.new_zeros(len(y), 1, y.shape[2])], dim=1)
        if len(c) < len(y):  # one set of points for all: factored once, samples are its columns
            columns = wanted.transpose(0, 1).flatten(1)[None]
            solved = torch.linalg.solve(rows, columns)[0].unflatten(1, (len(y), -1)).transpose(0, 1)
        else:
            solved = torch.linalg.solve(rows, wanted.expand(len(c), -1, -1))
        return solved[:, :count], solved[:, count:]

    def _slopes(self, a: Tensor, c: Tensor, steep: Tensor, weights: Tensor) -> Tensor:
        """Σ_n −α r^(α − 2) (a − c_n) w_n, in one product over n: [B, M, d, C].

        ``steep``: r^(α − 2), [B, M, N]."""
        moved = c[..., None] * weights[:, :, None]  # [B, N, d, C]
        along = a[..., None] * (steep @ weights)[:, :, None]
        back = (steep @ moved.flatten(2)).unflatten(2, moved.shape[2:])
        return self._power() * (back - along)


class PlaneBlend(nn.Module):
    """Values anywhere from planes at tokens: see the module's text.

    Args:
        channels: numbers of a value.
        spacing: distance of the tokens, the unit of slopes.
    """

    def __init__(self, channels: int, spacing: float):
        super().__init__()
        self.channels, self.spacing = channels, spacing
        self.near = Nearness(1, spacing, first=BLEND)

    def forward(self, queries: Points, points: Points, planes: Tensor) -> Tensor:
        """Planes [B, K, C (1 + d)] at ``points`` → values [B, M, C] at ``queries``, float32.

        Σ_k w_mk (v_k + s_k · (q_m − a_k)) in two products, so that no [M, K, d] is made."""
        with torch.autocast(planes.device.type, enabled=False):
            weights = self.near(queries, points)[:, 0].softmax(dim=-1)  # [B, M, K]
            value, slopes = planes.float().split(
                [self.channels, planes.shape[-1] - self.channels], -1
            )
            slopes = slopes.unflatten(2, (-1, self.channels))  # [B, K, d, C]
            origin = (points.coordinates / self.spacing)[..., None]  # [B, K, d, 1]
            steady = value - (slopes * origin).sum(2)
            rising = (weights @ slopes.flatten(2)).unflatten(2, slopes.shape[2:])  # [B, M, d, C]
            asked = (queries.coordinates / self.spacing)[..., None]
            return weights @ steady + (rising * asked).sum(2)
