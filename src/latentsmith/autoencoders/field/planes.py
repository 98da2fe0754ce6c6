"""Regression before learning: a plane fitted to the values near a token, and planes blended.

    fit:    min over (v, s) of  Σ w_n |v + s·o_n − y_n|² + ridge · |s|²,   o_n = (c_n − a) / r
            w_n = softmax(−|o_n|² / 2),  r = share · distance to the third nearest point
    blend:  value(q) = Σ_k softmax(−|q − a_k|² / 2ρ²) (v_k + s_k · (q − a_k) / spacing)

Local linear regression (Cleveland 1979; Fan 1993) whose radius follows how densely points lie
there. Where a token's first numbers are such a plane and decoding starts from their blend, a
network begins where regression ends, which on photographs is above Delaunay's triangles, and learns
what is missing. Share, ridge and ρ are learned with it.
"""

import torch
from torch import Tensor, nn

from latentsmith.autoencoders.field.features import Nearness
from latentsmith.backbones.mixers.points import Points

NEAREST = 16
"""Points that a plane is fitted to: the weight of the 17th would be below 1e-4."""
THIRD = 3
"""The radius is a share of the distance to this one of them."""
SHARE, RIDGE = 0.5, 0.1
"""At the start."""
BLEND = 0.4
"""ρ at the start, in distances of the tokens."""


def plane_numbers(channels: int, dims: int) -> int:
    """Numbers of a plane: value and slopes."""
    return channels * (1 + dims)


class PlaneFit(nn.Module):
    """Planes at some points, fitted to values near them: see the module's text.

    Args:
        spacing: distance of the points that planes are fitted at: the unit of their slopes.
    """

    def __init__(self, spacing: float):
        super().__init__()
        self.spacing = spacing
        self.log_share = nn.Parameter(torch.empty(1))
        self.log_ridge = nn.Parameter(torch.empty(1))

    def reset(self) -> None:
        """Set share and ridge to their start."""
        with torch.no_grad():
            self.log_share.fill_(SHARE).log_()
            self.log_ridge.fill_(RIDGE).log_()

    def forward(self, at: Points, points: Points, values: Tensor) -> Tensor:
        """Values [B, N, C] at ``points`` → [B, M, C (1 + d)] at ``at``, float32: C values, then C
        slopes a ``spacing`` along each dimension. Few points give flat planes, one its value."""
        with torch.autocast(values.device.type, enabled=False):
            a, c, y = at.coordinates.float(), points.coordinates.float(), values.float()
            batch = max(len(a), len(c), len(y))
            a, c, y = (x.expand(batch, -1, -1) for x in (a, c, y))
            apart = torch.cdist(a, c, compute_mode="donot_use_mm_for_euclid_dist")
            near, index = apart.topk(min(NEAREST, c.shape[1]), dim=-1, largest=False)
            third = near[..., min(THIRD, near.shape[-1]) - 1, None]
            radius = self.log_share.exp() * third.clamp_min(1e-3 * self.spacing)  # [B, M, 1]
            weights = (-0.5 * (near / radius).square()).softmax(-1)[..., None]  # [B, M, k, 1]
            offsets = (_rows(c, index) - a[:, :, None]) / radius[..., None]  # [B, M, k, d]
            value, slopes = self._solve(offsets, _rows(y, index), weights)
            slopes = slopes * (self.spacing / radius[..., None])  # [B, M, d, C]
            return torch.cat([value, slopes.flatten(2)], dim=-1)

    def _solve(self, offsets: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted ridge regression in closed form: [B, M, C] and [B, M, d, C]."""
        center, mean = (weights * offsets).sum(2), (weights * y).sum(2)
        told = (weights * (offsets - center[:, :, None])).mT  # [B, M, d, k]
        spread = told @ offsets
        ridge = self.log_ridge.exp() * torch.eye(offsets.shape[-1], device=y.device)
        slopes = torch.linalg.solve(spread + ridge, told @ y)
        return mean - (center[:, :, None] @ slopes)[:, :, 0], slopes


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


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x [B, N, V] at index [B, M, k] → [B, M, k, V]."""
    rows = index.flatten(1)[..., None].expand(-1, -1, x.shape[-1])
    return x.gather(1, rows).unflatten(1, index.shape[1:])
