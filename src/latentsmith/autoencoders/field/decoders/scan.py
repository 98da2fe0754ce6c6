"""``scan``: tokens and *read-only* queries on one curve.

    h(s) = Σ_{k: s_k ≤ s} w_k e^{−a (s − s_k)} B_k x_kᵀ        y(c) = C(c) h(s(c))

Tokens inject what they hold, queries only read: at a query x = 0, the decay is the same for all
(it does not select), and a token's weight w_k comes from the tokens alone. Decays telescope, so
what lies between two tokens makes no difference: the value at c is a function of c, and the scan
stays linear in the number of queries. Along several curves and both ways, since neighbours across
a curve's seam see different states.

Source: research of spec/4-field-autoencoder.md, "read-only queries".
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from latentsmith.autoencoders.field.decoders.base import (
    DECODERS,
    DecoderBlock,
    DecoderConfig,
    DecoderShape,
    Reader,
    Scene,
)
from latentsmith.backbones.blocks.curves import Curve, Ordering
from latentsmith.backbones.blocks.weights import Linear
from latentsmith.backbones.mixers import Points
from latentsmith.backbones.scan import ssd_scan
from latentsmith.config.schema import schema

CURVES: list[Curve] = ["hilbert", "hilbert_t"]
NO_GAP = 1e-12
"""Stands for a gap of 0 where it divides: e^{−a · 1e-12} is 1 in float32."""


@DECODERS.register("scan", help="a linear-time scan of tokens that queries read and never change")
@schema
class ScanConfig(DecoderConfig):
    """A function of the coordinate up to rounding; linear in the number of queries."""

    kind: Literal["scan"] = "scan"
    head: Annotated[int, Field(gt=0)] = 16
    """Channels of a head: divides the width."""
    state: Annotated[int, Field(gt=0)] = 16
    """Numbers a head carries along."""

    def block(self, shape: DecoderShape, layer: int) -> nn.Module:
        """See `DecoderConfig.block`. Raises ValueError for a head that does not divide the
        width."""
        if shape.width % self.head:
            raise ValueError(f"decoder.head {self.head} does not divide the width {shape.width}")
        return DecoderBlock(
            shape.width, self.mlp_ratio, ScanReader(shape.width, self.head, self.state)
        )


class ScanReader(Reader):
    """See the module's text."""

    def __init__(self, width: int, head: int, state: int):
        super().__init__()
        self.head, self.state, self.heads = head, state, width // head
        self.lanes: list[tuple[Curve, bool]] = [(c, back) for c in CURVES for back in (False, True)]
        count = len(self.lanes)
        self.value = Linear(width, width)
        self.inward = Linear(width, count * state)
        self.outward = Linear(width, count * state)
        self.log_decay = nn.Parameter(torch.empty(count, self.heads))
        self.out = Linear(width, width)

    def reset(self, rng: torch.Generator) -> None:
        """Decays of 1 … 64 times per domain: some heads see all of it, some a few tokens."""
        with torch.no_grad():
            spread = torch.rand(self.log_decay.shape, generator=rng)
            self.log_decay.copy_(spread * torch.log(torch.tensor(64.0)))

    def forward(self, q: Tensor, tokens: Tensor, scene: Scene) -> Tensor:
        """See `Reader.forward`."""
        known, asked = tokens.shape[1], q.shape[1]
        lanes = [scene.joined.along(curve, backward=back) for curve, back in self.lanes]
        values = _padded(self.value(tokens), after=asked)
        inward = _padded(self.inward(tokens), after=asked).chunk(len(lanes), dim=-1)
        outward = _padded(self.outward(q), before=known).chunk(len(lanes), dim=-1)
        gaps = [lane.gaps.clamp_min(NO_GAP).expand(len(q), -1) for lane in lanes]
        steps = torch.stack(gaps, dim=2)  # [B, L, G]
        shares = [_share(scene.tokens, curve, asked) for curve, _ in self.lanes]
        weights = [share.expand(len(q), -1, -1) for share in shares]
        rows = [
            torch.cat([values, b, c, w.to(q.dtype)], dim=-1)
            for b, c, w in zip(inward, outward, weights, strict=True)
        ]
        x, b, c, w = self._ordered(rows, lanes)
        # the scan would weigh an input by its step, which the queries before it shorten
        x = x.float() * (w.float() / steps.unsqueeze(-1))
        y = ssd_scan(
            x.unflatten(-1, (self.heads, self.head)).flatten(2, 3),
            steps.repeat_interleave(self.heads, dim=2),
            -self.log_decay.exp().flatten(),
            b.float(),
            c.float(),
            rule="euler",
        ).y
        y = y.flatten(2).unflatten(2, (len(lanes), -1)).to(q.dtype)
        back = [lane.unsort(part)[:, known:] for part, lane in zip(y.unbind(2), lanes, strict=True)]
        return self.out(torch.stack(back).sum(0))

    def _ordered(self, rows: list[Tensor], lanes: list[Ordering]) -> tuple[Tensor, ...]:
        """Each direction's (x, B, C, w) in its own order, [B, L, G, …]."""
        there = [lane.sort(row) for row, lane in zip(rows, lanes, strict=True)]
        sizes = [self.heads * self.head, self.state, self.state, 1]
        return torch.stack(there, dim=2).split(sizes, dim=-1)


def _padded(x: Tensor, *, before: int = 0, after: int = 0) -> Tensor:
    """x [B, L, D] with rows of zeros."""
    return torch.nn.functional.pad(x, (0, 0, before, after))


def _share(tokens: Points, curve: Curve, asked: int) -> Tensor:
    """Quadrature weights of the tokens along ``curve``, 0 at the queries: [B, K + M, 1]."""
    return _padded(tokens.weights(curve)[..., None], after=asked)
