"""SSD T positions at a time, all in matrix products, with the backward written by hand.

With one decay a head, what position s adds to position t of its chunk is a T x T matrix,

    y = (M ∘ C Bᵀ) x + exp(ℓ) C h,   M_ts = exp(ℓ_t − ℓ_s) for s ≤ t,  ℓ = cumulative Δ A
    h ← exp(ℓ_T) h + Bᵀ (exp(ℓ_T − ℓ) x)

(Dao & Gu 2024, listing 1). Exponents are differences, never positive, taken in float64: ℓ itself
grows with T, and its float32 rounding would show in neighbours that hardly decay. The state before
each chunk is kept; backward makes the matrices anew. Gradients of decays come from what lies below
the diagonal, where all terms are as small as the answer.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LENGTH, ON_DEVICE = 32, 64
"""T on a CPU, where what is T x T costs most (a fifth more time with 64), and on a GPU."""


def chunk_ssd(
    x: Tensor,
    step: Tensor,
    decay: Tensor,
    inward: Tensor,
    outward: Tensor,
    initial: Tensor | None,
    *,
    length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`ScanBackend.ssd`; ``length``: T, by default as the device likes it."""
    length = length or (LENGTH if x.device.type == "cpu" else ON_DEVICE)
    return _Scan.apply(length, initial, x, step * decay, inward, outward)  # type: ignore


@dataclass
class _Part:
    """A chunk; R = H/G heads a group."""

    x: Tensor  # [B, G, T, R, P]
    inward: Tensor  # [B, G, T, N]
    outward: Tensor  # [B, G, T, N]
    since: Tensor  # exp(ℓ_t), decay since the chunk's start [B, G, T, R, 1]
    until: Tensor  # exp(ℓ_T − ℓ_t), decay until its end [B, G, T, R, 1]
    between: Tensor  # M [B, G, R, T, T]
    where: slice

    def across(self) -> Tensor:
        """C Bᵀ [B, G, 1, T, T]."""
        return (self.outward @ self.inward.mT)[:, :, None]


def _part(
    start: int, length: int, x: Tensor, log: Tensor, inward: Tensor, outward: Tensor
) -> _Part:
    """The chunk from ``start`` of x [B, L, H, P], log [B, L, H], inward, outward [B, L, G, N]."""
    w = slice(start, min(start + length, x.shape[1]))
    groups = inward.shape[2]
    total = _grouped(log[:, w].double().cumsum(1), groups)  # ℓ [B, G, T, R]
    flat = total.mT  # [B, G, R, T]
    between = (flat[..., None] - flat[..., None, :]).to(x.dtype)
    above = torch.ones(between.shape[-2:], dtype=torch.bool, device=x.device).triu_(1)
    between.masked_fill_(above, -torch.inf).exp_()
    return _Part(
        _grouped(x[:, w], groups),
        inward[:, w].transpose(1, 2).contiguous(),
        outward[:, w].transpose(1, 2).contiguous(),
        torch.exp(total.to(x.dtype))[..., None],
        torch.exp((total[:, :, -1:] - total).to(x.dtype))[..., None],
        between,
        w,
    )


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        length: int,
        initial: Tensor | None,
        x: Tensor,
        log: Tensor,
        inward: Tensor,
        outward: Tensor,
    ) -> tuple[Tensor, Tensor]:
        batch, total, heads, width = x.shape
        groups, states = inward.shape[2:]
        shape = (batch, groups, states, heads // groups, width)
        h = x.new_zeros(shape) if initial is None else _inside(initial, groups)
        y, kept = _like(x), []
        for start in range(0, total, length):
            part = _part(start, length, x, log, inward, outward)
            kept.append(h)
            near = part.between.mul_(part.across()) @ part.x.transpose(2, 3)  # [B, G, R, T, P]
            far = _mix(part.outward, h).mul_(part.since)
            y[:, part.where] = _joined(far.add_(near.transpose(2, 3)))
            h = torch.addcmul(_mix(part.inward.mT, part.x * part.until), part.since[:, :, -1:], h)
        ctx.how = length, initial is not None
        ctx.save_for_backward(x, log, inward, outward, torch.stack(kept))
        return y, _outside(h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        length, continued = ctx.how
        *inputs, kept = ctx.saved_tensors
        into = [_like(t) for t in inputs]
        groups = inputs[2].shape[2]
        dh = _inside(grads[1], groups)  # [B, G, N, R, P]
        for k in reversed(range(len(kept))):
            part = _part(k * length, length, *inputs)
            dy = _grouped(grads[0][:, part.where], groups)
            *found, dh = _pull_back(part, kept[k], dy, dh)
            for whole, piece in zip(into, found, strict=True):
                whole[:, part.where] = piece
        return None, _outside(dh) if continued else None, *into


def _pull_back(part: _Part, h: Tensor, dy: Tensor, dh: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a chunk: of x, log, inward, outward as given to the scan, and of the state
    before it; from ``h`` before it, ``dy`` [B, G, T, R, P] and ``dh`` after it [B, G, N, R, P]."""
    across, xs, dys = part.across(), part.x.transpose(2, 3), dy.transpose(2, 3)
    pairs = part.between * across  # [B, G, R, T, T]
    d_pairs = dys @ xs.mT
    told = _mix(part.inward, dh).mul_(part.until)  # of x, by the state after
    d_x = (pairs.mT @ dys).transpose(2, 3) + told
    d_across = (d_pairs * part.between).sum(2)  # [B, G, T, T]
    faded, driven = dy * part.since, part.x * part.until
    d_out = d_across @ part.inward + faded.flatten(3) @ h.flatten(3).mT
    d_in = d_across.mT @ part.outward + driven.flatten(3) @ dh.flatten(3).mT

    # log Δ A of position t scales what crosses it: pairs (r, s) with s < t ≤ r, what y_r (r ≥ t)
    # has from the state before, what the state after has from x_s (s < t) and from the one before
    below = d_pairs.mul_(pairs)
    below.diagonal(dim1=-2, dim2=-1).zero_()
    # (sums in float64: the same numbers are added and taken away, and what is left may be small)
    recalled = (_mix(part.outward, h) * faded).sum(-1)  # [B, G, T, R]
    later = (below.sum(-1, dtype=torch.float64) - below.sum(-2, dtype=torch.float64)).mT + recalled
    sent = (told * part.x).sum(-1, dtype=torch.float64)
    sent = sent.cumsum(2) - sent
    carried = (h * dh).sum((2, 4))[:, :, None] * part.since[:, :, -1:, :, 0]
    d_log = later.flip(2).cumsum(2).flip(2) + sent + carried

    d_h = torch.addcmul(_mix(part.outward.mT, faded), part.since[:, :, -1:], dh)
    d_log = d_log.transpose(1, 2).flatten(2).to(h.dtype)
    return _joined(d_x), d_log, d_in.transpose(1, 2), d_out.transpose(1, 2), d_h


def _mix(weights: Tensor, values: Tensor) -> Tensor:
    """[B, G, I, J] times [B, G, J, R, P] → [B, G, I, R, P]."""
    return (weights @ values.flatten(3)).unflatten(3, values.shape[3:])


def _grouped(t: Tensor, groups: int) -> Tensor:
    """[B, T, H, …] → [B, G, T, R, …], a view."""
    return t.unflatten(2, (groups, -1)).transpose(1, 2)


def _joined(t: Tensor) -> Tensor:
    """[B, G, T, R, P] → [B, T, H, P]."""
    return t.transpose(1, 2).flatten(2, 3)


def _inside(t: Tensor, groups: int) -> Tensor:
    """[B, H, P, N] → [B, G, N, R, P]."""
    return t.unflatten(1, (groups, -1)).permute(0, 1, 4, 2, 3)


def _outside(t: Tensor) -> Tensor:
    """[B, G, N, R, P] → [B, H, P, N]."""
    return t.permute(0, 1, 3, 4, 2).flatten(1, 2)


def _like(t: Tensor) -> Tensor:
    return torch.empty_like(t, memory_format=torch.contiguous_format)
