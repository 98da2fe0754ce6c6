"""How much two token rows have in common, without a loop over samples.

Rows are int64 [N, L] as `latentsmith.data.text.tokens` makes them; what counts is the *content*,
the tokens before the first EOS or PAD. Everything rests on one comparison of all pairs of
positions, [N, L, L]; n-grams are equal where n such comparisons in a row are.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from latentsmith.data.text.tokens.base import content
from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count

_ROWS = 512
"""Samples compared at once: [512, 32, 32] booleans are half a megabyte."""


def check_ids(ids: Tensor, name: str) -> Tensor:
    """``ids`` unchanged. Raises UserError unless they are int64 [N, L] of at least one sample."""
    if ids.ndim != 2 or ids.dtype != torch.int64:
        kind = str(ids.dtype).removeprefix("torch.")
        raise UserError(f"{name} must be int64 [N, L], got {kind} {list(ids.shape)}.")
    check_count(len(ids), 1, f"a measure of {name}", "text")
    return ids


def check_id_pair(ids: Tensor, ids_ref: Tensor) -> None:
    """Raises UserError unless both are int64 [N, L] of as many samples."""
    check_ids(ids, "ids")
    check_ids(ids_ref, "ids_ref")
    if len(ids) != len(ids_ref):
        raise UserError(f"ids are of {len(ids)} texts and ids_ref of {len(ids_ref)}.")


def over_pairs(ids: Tensor, ids_ref: Tensor, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``compute`` of some rows of both at a time: float64 [N]."""
    check_id_pair(ids, ids_ref)
    parts = zip(ids.split(_ROWS), ids_ref.split(_ROWS), strict=True)
    return torch.cat([compute(a, b) for a, b in parts]).double()


class Overlap:
    """What rows ``a`` [N, L] share with rows ``b`` [N, M].

    Attributes:
        len_a, len_b: int64 [N], tokens of content.
    """

    def __init__(self, a: Tensor, b: Tensor):
        self.a, self.b = a, b
        self.in_a, self.in_b = content(a), content(b)
        self.len_a, self.len_b = self.in_a.sum(1), self.in_b.sum(1)

    def _same(self, x: Tensor, y: Tensor, n: int) -> Tensor:
        """Which n-grams are equal: bool [N, positions of x, positions of y]."""
        width, height = x.shape[1] - n + 1, y.shape[1] - n + 1
        same = torch.ones(len(x), width, height, dtype=torch.bool, device=x.device)
        for k in range(n):
            same &= x[:, k : k + width, None] == y[:, None, k : k + height]
        return same

    def _starts(self, inside: Tensor, n: int) -> Tensor:
        """Positions [N, L - n + 1] where an n-gram of content begins."""
        return inside[:, n - 1 :]  # content is a prefix: its last token says all

    def ngrams(self, n: int) -> tuple[Tensor, Tensor]:
        """(n-grams of ``a`` that ``b`` has, each counted as often as in both; n-grams of ``a``),
        int64 [N] each: the clipped counts of BLEU."""
        if n > min(self.a.shape[1], self.b.shape[1]):
            return torch.zeros_like(self.len_a), (self.len_a - n + 1).clamp_min(0)
        at_a, at_b = self._starts(self.in_a, n), self._starts(self.in_b, n)
        own = (self._same(self.a, self.a, n) & at_a[:, None]).sum(2)  # how often in a
        other = (self._same(self.a, self.b, n) & at_b[:, None]).sum(2)  # how often in b
        # every copy of an n-gram in a carries its share of min(own, other)
        share = torch.minimum(own, other).double() / own.clamp_min(1)
        return (share * at_a).sum(1).round().long(), at_a.sum(1)

    def distinct(self) -> tuple[Tensor, Tensor, Tensor]:
        """Different tokens (of both, of ``a``, of ``b``), int64 [N] each."""
        first_a, first_b = _first(self.a, self.in_a), _first(self.b, self.in_b)
        shared = (self._same(self.a, self.b, 1) & self.in_b[:, None]).any(2) & first_a
        return shared.sum(1), first_a.sum(1), first_b.sum(1)

    def longest_common(self) -> Tensor:
        """Length of the longest common subsequence, int64 [N]."""
        same = self._same(self.a, self.b, 1) & self.in_a[..., None] & self.in_b[:, None]
        best = torch.zeros(len(self.a), self.b.shape[1] + 1, dtype=torch.int64, device=same.device)
        for row in same.unbind(1):  # one token of a after another; all samples at once
            longer = torch.maximum(best[:, 1:], best[:, :-1] + row)
            best = torch.cat([best[:, :1], longer.cummax(1).values], 1)
        return best[:, -1]


def _first(x: Tensor, inside: Tensor) -> Tensor:
    """Positions of content whose token did not occur before: bool [N, L]."""
    earlier = (x[:, :, None] == x[:, None]).tril(-1)
    return inside & ~earlier.any(2)
