"""Orders of scattered points along curves that fill space, and the steps between them.

A scan needs a sequence. Along a Hilbert curve neighbours in the sequence are neighbours in space,
and the curve's parameter s(c) in [0, 1) is a fixed function of the coordinate: points added in
between change nobody's order and nobody's s. The gaps of s are areas (a curve that fills the
domain evenly spends 1 % of its length in 1 % of it), so a scan whose step is the gap is a
quadrature of one integral, at any density. (Index steps have no such limit: spec page 4.)

    ordering = order(coordinates, "hilbert")     # once for a coordinate set, for all layers
    y = ordering.unsort(scan(ordering.sort(x), ordering.gaps))
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from latentsmith.backbones.blocks.hilbert import hilbert_keys
from latentsmith.errors import UserError, nearest

BITS = {1: 32, 2: 16, 3: 16}
"""Bits of each axis by dimensions: cells of 3e-5 of the domain's 2 in two and three."""

Curve = Literal["hilbert", "hilbert_t", "rows", "columns"]


def _hilbert(cells: Tensor, bits: int) -> Tensor:
    return hilbert_keys(cells, bits)


def _hilbert_t(cells: Tensor, bits: int) -> Tensor:
    return hilbert_keys(cells.flip(-1), bits)


def _rows(cells: Tensor, bits: int) -> Tensor:
    keys = cells[..., 0]
    for along in cells.unbind(-1)[1:]:
        keys = (keys << bits) | along
    return keys


def _columns(cells: Tensor, bits: int) -> Tensor:
    return _rows(cells.flip(-1), bits)


CURVES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "hilbert": _hilbert,
    "hilbert_t": _hilbert_t,
    "rows": _rows,
    "columns": _columns,
}
"""name → (int64 cells [..., d], bits) → int64 keys [...]. ``hilbert_t`` is the Hilbert curve with
the axes in reverse order. ``rows`` (row-major: the last axis is the fastest) and ``columns`` keep
neighbours together on lattices only; every scattered point has a row of its own, and the next one
lies a third of the domain away."""


def curve_keys(coordinates: Tensor, curve: str = "hilbert") -> Tensor:
    """Position along a curve as an integer: [..., d] in [-1, 1] → int64 [...] below 2^(d BITS[d]).

    Raises:
        UserError: no such curve; not 1, 2 or 3 coordinates.
    """
    if curve not in CURVES:
        raise UserError(f"no curve {curve!r}. {nearest(curve, CURVES)}")
    dims = coordinates.shape[-1]
    if dims not in BITS:
        raise UserError(f"curves fill 1, 2 or 3 dimensions; these points have {dims}.")
    bits = BITS[dims]
    exact = coordinates.detach().double() if bits > 24 else coordinates.detach().float()
    cells = ((exact + 1) * (1 << (bits - 1))).long().clamp_(0, (1 << bits) - 1)
    return CURVES[curve](cells, bits)


@dataclass(frozen=True)
class Ordering:
    """One order of B sets of L points (B = 1: the same for every sample of a batch).

    Sorted position t holds point ``permutation[t]``; point i is at sorted position ``inverse[i]``.
    With s_t the curve parameter at sorted position t, the gaps are

        gaps[t]      = s_t - s_(t-1),   s_(-1) = 0:  the step of a scan that runs forward
        gaps_back[t] = s_(t+1) - s_t,   s_L = 1:     that of one that runs back from the end

    Both are by sorted position, so a reversed scan flips ``gaps_back`` along with the tokens
    (`reversed` does). Points in one place have a gap of 0: no step.
    """

    permutation: Tensor
    """int64 [B, L]"""
    inverse: Tensor
    """int64 [B, L]"""
    gaps: Tensor
    """float32 [B, L], not negative, sum below 1"""
    gaps_back: Tensor
    """float32 [B, L], not negative, sum at most 1"""

    def sort(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L, D] in curve order."""
        return take(tokens, self.permutation, self.inverse)

    def unsort(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L, D] back in the points' order."""
        return take(tokens, self.inverse, self.permutation)

    def reversed(self) -> "Ordering":
        """The same curve from its end."""
        last = self.permutation.shape[1] - 1
        return Ordering(
            self.permutation.flip(1), last - self.inverse, self.gaps_back.flip(1), self.gaps.flip(1)
        )

    def weights(self) -> Tensor:
        """Quadrature weight of every point, in the points' order: float32 [B, L], sum 1.

        Half the gaps on both sides, and the whole of the gaps at the two ends: the length of curve
        that is nearer to this point than to another. Σ w f(c) is the mean of f over the domain as
        well as these points can tell it, wherever they lie.
        """
        before, after = self.gaps.clone(), self.gaps_back.clone()
        before[:, 1:] /= 2
        after[:, :-1] /= 2
        return (before + after).gather(1, self.inverse)


@torch.no_grad()
def order(coordinates: Tensor, curve: str = "hilbert") -> Ordering:
    """Sort points along a curve. Points with one key keep their order: give inputs before queries.

    Args:
        coordinates: [B, L, d] in [-1, 1].
        curve: a name of `CURVES`.

    Raises:
        UserError: see `curve_keys`.
    """
    dims = coordinates.shape[-1]
    keys = curve_keys(coordinates, curve)
    sorted_keys, permutation = _sort(keys, dims * BITS.get(dims, 0))
    places = torch.arange(keys.shape[1], device=keys.device).expand_as(permutation)
    inverse = torch.empty_like(permutation).scatter_(1, permutation, places)
    whole = 1 << (dims * BITS[dims])
    start = torch.zeros_like(keys[:, :1])
    steps = torch.cat([start, sorted_keys, start + whole], dim=1).diff(dim=1)
    gaps = steps.double().mul_(1 / whole).float()
    return Ordering(permutation, inverse, gaps[:, :-1], gaps[:, 1:])


def _sort(keys: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(sorted keys, permutation), int64 [B, L] each, stable."""
    fits = len(keys) <= 1 << (63 - bits)
    return _flat_sort(keys, bits) if keys.is_cuda and fits else keys.sort(dim=1, stable=True)


def _flat_sort(keys: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """`_sort` with the batch in the high bits: one radix sort instead of one for each row. (On a
    CPU shorter sorts are the cheaper ones.)"""
    batch = torch.arange(len(keys), device=keys.device)[:, None]
    found, where = (keys | (batch << bits)).flatten().sort(stable=True)
    found, where = found.view_as(keys), where.view_as(keys)
    return found & ((1 << bits) - 1), where - batch * keys.shape[1]


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, permutation: Tensor, inverse: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(permutation, inverse)
        return _gather(tokens, permutation)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        permutation, inverse = ctx.saved_tensors
        # The transpose of a permutation is its inverse: a read, where autograd would add up.
        return _Take.apply(grad, inverse, permutation), None, None


def _gather(tokens: Tensor, permutation: Tensor) -> Tensor:
    """Rows as whole lines: an expanded [B, L, D] index reads 8 bytes for every number it moves."""
    if len(permutation) == 1:
        return tokens.index_select(1, permutation[0])
    offset = torch.arange(len(tokens), device=tokens.device)[:, None] * tokens.shape[1]
    flat = tokens.reshape(-1, tokens.shape[2]).index_select(0, (permutation + offset).flatten())
    return flat.view_as(tokens)


def take(tokens: Tensor, permutation: Tensor, inverse: Tensor | None = None) -> Tensor:
    """Tokens [B, L, D] reordered: out[b, t] = tokens[b, permutation[b, t]].

    Args:
        permutation: int64 [B, L] or [1, L], each row a permutation (not checked).
        inverse: of the permutation; its gradient reads through it. Made when not given.
    """
    if inverse is None:
        inverse = permutation.argsort(dim=1)
    return _Take.apply(tokens, permutation, inverse)  # type: ignore[return-value]
