"""How inputs enter the state over a step."""

import torch
from torch import Tensor

from latentsmith.backbones.scan.base import Injection


def ssd_weight(step: Tensor, decay: Tensor, *, hold: bool) -> Tensor:
    """Input weight of SSD [B, L, H]: Δ, or with ``hold`` (exp(Δ A) − 1)/A, which tends to Δ."""
    return torch.expm1(step * decay) / decay if hold else step


def preceding(
    x: Tensor, inward: Tensor, step: Tensor, previous: tuple[Tensor, Tensor] | None
) -> Injection:
    """x and inward of each position's predecessor: the last one before it with a step above 0.

    Args:
        x: [B, L, …].
        inward: [B, L, G, N].
        step: [B, L, C].
        previous: x and inward (no L) of the position before the first; without it, positions that
            have no predecessor get their own.
    """
    here = torch.arange(x.shape[1], device=x.device)
    there = (step > 0).any(-1)  # [B, L]
    last = torch.where(there, here, -1).cummax(1).values
    index = torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], 1)
    if previous is None:
        index = torch.where(index < 0, here, index)
    else:
        x0, inward0 = previous
        index = index + 1
        x = torch.cat([x0.to(x)[:, None], x], 1)
        inward = torch.cat([inward0.to(inward).reshape(-1, 1, *inward.shape[2:]), inward], 1)
    return Injection(_take(x, index), _take(inward, index))


def _take(t: Tensor, index: Tensor) -> Tensor:
    """t [B, M, …] at index [B, L] → [B, L, …]."""
    flat = t.flatten(2)
    return flat.gather(1, index[..., None].expand(-1, -1, flat.shape[2])).unflatten(2, t.shape[2:])
