"""Paths between latents."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from latentsmith.errors import UserError

Path = Literal["lerp", "slerp"]
Interpolate = Callable[[Tensor, Tensor, Tensor | float], Tensor]


def _weight(t: Tensor | float, like: Tensor) -> Tensor:
    """t (a number or [B]) shaped to multiply [B, D]."""
    t = torch.as_tensor(t, dtype=like.dtype, device=like.device)
    return t.reshape(-1, 1)


def lerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """(1 - t) a + t b for a, b [B, ...], t a number or [B]."""
    start, end = a.flatten(1), b.flatten(1)
    w = _weight(t, start)
    # torch.lerp, since (1 - t) a + t a is not exactly a: a path that stands must stand.
    return torch.lerp(start, end, w.expand_as(start)).reshape(a.shape)


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Spherical interpolation (Shoemake 1985) of a, b [B, ...], each sample one flat vector.

    sin((1-t) w)/sin(w) a + sin(t w)/sin(w) b with w the angle between a and b; unequal norms are
    interpolated along. Parallel, opposite or zero vectors have no unique arc and take `lerp`.
    """
    start, end = a.flatten(1), b.flatten(1)
    w = _weight(t, start)
    norms = start.norm(dim=1, keepdim=True) * end.norm(dim=1, keepdim=True)
    cosine = (start * end).sum(1, keepdim=True) / norms.clamp_min(torch.finfo(start.dtype).tiny)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    arc = ((1 - w) * angle).sin() / sine * start + (w * angle).sin() / sine * end
    unique = (sine > 1e-4) & (norms > 0)
    plain = torch.lerp(start, end, w.expand_as(start))
    return torch.where(unique, arc, plain).reshape(a.shape)


def path(kind: Path) -> Interpolate:
    """`lerp` or `slerp` by name. Raises UserError for another name."""
    paths: dict[str, Interpolate] = {"lerp": lerp, "slerp": slerp}
    if kind not in paths:
        raise UserError(f"no path {kind!r}; known: lerp, slerp.")
    return paths[kind]


def path_grid(
    decode: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, *, steps: int = 8, kind: Path = "lerp"
) -> Tensor:
    """Decoded points of P paths for a figure: [P, steps, C, H, W], t = 0 … 1 inclusive."""
    ts = torch.linspace(0, 1, steps).tolist()
    move = path(kind)
    with torch.no_grad():
        return torch.stack([decode(move(a, b, t)) for t in ts], dim=1)
