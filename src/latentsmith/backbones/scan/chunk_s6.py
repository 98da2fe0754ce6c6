"""S6 a few positions at a time, with the backward written by hand.

T positions' decays, inputs and states are held at once, [T, B, G, N, D/G]: small enough to stay in
a processor's cache. Elementwise work and contractions run over all T together; only the recurrence
itself, one multiply-add a position, runs in order. The state before each chunk is kept, (L/T) B D N
numbers; backward makes the rest anew, so nothing of size B L D N exists. (What loses time in
parallel scans on a CPU is not arithmetic but writing such tensors out and reading them back.)

N before D/G: channels are many and contiguous, states few, so that outer products and sums over N
are long vector operations. With ``hold`` the decay and the input weight come from one function,

    τ = tanh(Δ A/2),  q = τ/(1 − τ),  exp(Δ A) = 1 + 2 q,  (exp(Δ A) − 1)/A = 2 q/A,

which keeps the digits of a small Δ A, as expm1 does, and is several times faster than expm1.
Gradients, with λ_t the gradient of h_t: λ_t = C_t ∂y_t + a_{t+1} λ_{t+1}, and

    euler: k = a λ h_{t−1},          ∂Δ = Σ_n A k + Σ_n λ u,  ∂A = Σ_t Δ k
    hold:  k = a λ (A h_{t−1} + u),  ∂Δ = Σ_n k,              ∂A = (Σ_t Δ k − Σ_t λ w u) / A
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from latentsmith.backbones.scan.base import Injection

CACHED = 2**20
"""Numbers of one buffer [T, B, D, N] on a CPU (4 MiB in float32)."""
SHORTEST, LONGEST = 4, 64
"""Bounds of T."""
ON_DEVICE = 32
"""T on a GPU."""


def chunk_length(step: Tensor, states: int) -> int:
    """T for Δ [B, L, D] and N states."""
    if step.device.type != "cpu":
        return ON_DEVICE
    batch, _, dim = step.shape
    return min(max(CACHED // max(batch * dim * states, 1), SHORTEST), LONGEST)


def chunk_selective(
    injections: tuple[Injection, ...],
    step: Tensor,
    decay: Tensor,
    outward: Tensor,
    initial: Tensor | None,
    *,
    hold: bool,
    length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`ScanBackend.selective`; ``length``: T, by default `chunk_length`."""
    length = length or chunk_length(step, decay.shape[1])
    flat = [t for injection in injections for t in injection]
    return _Scan.apply(hold, length, initial, step, decay, outward, *flat)  # type: ignore


@dataclass
class _Part:
    """A chunk's views: channels as rows [T, B, G, 1, D/G], states as columns [T, B, G, N, 1]."""

    step: Tensor
    outward: Tensor
    xs: list[Tensor]
    inwards: list[Tensor]
    where: slice


class _Sequence:
    """The whole sequence with time first, and buffers for a chunk of it."""

    def __init__(self, hold: bool, length: int, step: Tensor, decay: Tensor, outward: Tensor, flat):
        self.hold, self.length = hold, length
        batch, self.total, dim = step.shape
        groups, states = outward.shape[2:]
        self.groups, self.wide = groups, dim // groups
        self.shape = (batch, groups, states, self.wide)
        self.step, self.outward = self.row(step), self.column(outward)
        self.xs, self.inwards = (
            [self.row(x) for x in flat[::2]],
            [self.column(b) for b in flat[1::2]],
        )
        self.decay = decay.unflatten(0, (groups, -1)).mT.contiguous()  # [G, N, D/G]
        if hold:
            self.half, self.inverse = self.decay / 2, 2 / self.decay
        self.buffers: dict[str, Tensor] = {}

    def row(self, t: Tensor) -> Tensor:
        """[B, L, D] → [L, B, G, 1, D/G], a view."""
        return t.unflatten(2, (self.groups, 1, self.wide)).transpose(0, 1)

    def column(self, t: Tensor) -> Tensor:
        """[B, L, G, N] → [L, B, G, N, 1], a view."""
        return t.transpose(0, 1)[..., None]

    def parts(self) -> Iterator[_Part]:
        """Chunks in order; the last may be short."""
        for start in range(0, self.total, self.length):
            w = slice(start, min(start + self.length, self.total))
            xs, inwards = [x[w] for x in self.xs], [b[w] for b in self.inwards]
            yield _Part(self.step[w], self.outward[w], xs, inwards, w)

    def buffer(self, name: str, rows: int) -> Tensor:
        """Scratch [rows, B, G, N, D/G], the same memory for every chunk."""
        if name not in self.buffers:
            self.buffers[name] = self.step.new_empty(self.length + 1, *self.shape)
        return self.buffers[name][:rows]

    def states(self, part: _Part, start: Tensor) -> tuple[Tensor, Tensor]:
        """Decays a [T, …] and states [T + 1, …], the first being ``start``. With ``hold`` the
        buffers ``q`` and ``u`` are filled too."""
        rows = len(part.step)
        a, h = self.buffer("a", rows), self.buffer("h", rows + 1)
        h[0] = start
        u = self.buffer("u", rows) if self.hold else h[1:]
        drive = part.xs if self.hold else [part.step * x for x in part.xs]
        for k, (x, inward) in enumerate(zip(drive, part.inwards, strict=True)):
            torch.mul(x, inward, out=u) if k == 0 else u.addcmul_(x, inward)
        if self.hold:
            q = torch.mul(part.step, self.half, out=self.buffer("q", rows)).tanh_()
            torch.sub(1, q, out=a)
            q.div_(a)
            torch.mul(q, 2, out=a).add_(1)
            torch.mul(u, q, out=h[1:]).mul_(self.inverse)
        else:
            torch.mul(part.step, self.decay, out=a).exp_()
        for t in range(rows):
            h[t + 1].addcmul_(a[t], h[t])
        return a, h


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hold: bool,
        length: int,
        initial: Tensor | None,
        step: Tensor,
        decay: Tensor,
        outward: Tensor,
        *flat: Tensor,
    ) -> tuple[Tensor, Tensor]:
        run = _Sequence(hold, length, step, decay, outward, flat)
        state = step.new_zeros(run.shape) if initial is None else _inside(initial, run.groups)
        y = torch.empty_like(step, memory_format=torch.contiguous_format)
        rows, kept = run.row(y), []
        for part in run.parts():
            kept.append(state)
            _, h = run.states(part, state)
            rows[part.where] = torch.matmul(part.outward.mT, h[1:])
            state = h[-1].clone()
        ctx.how = hold, length, initial is not None
        ctx.save_for_backward(step, decay, outward, torch.stack(kept), *flat)
        return y, _outside(state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hold, length, continued = ctx.how
        step, decay, outward, kept, *flat = ctx.saved_tensors
        run = _Sequence(hold, length, step, decay, outward, flat)
        dy, lam = run.row(grads[0]), _inside(grads[1], run.groups)
        out = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in flat]
        into = _Gradients(
            run.row(d_step := torch.empty_like(step, memory_format=torch.contiguous_format)),
            torch.zeros_like(run.decay),
            run.column(d_out := torch.empty_like(outward, memory_format=torch.contiguous_format)),
            [run.row(t) for t in out[::2]],
            [run.column(t) for t in out[1::2]],
        )
        for part, start in zip(reversed(list(run.parts())), kept.flip(0).unbind(), strict=True):
            a, h = run.states(part, start)
            lams = run.buffer("lam", len(a))
            torch.mul(part.outward, dy[part.where], out=lams)
            lams[-1] += lam
            for t in range(len(a) - 1, 0, -1):
                lams[t - 1].addcmul_(a[t], lams[t])
            lam = a[0] * lams[0]
            into.outward[part.where] = torch.matmul(h[1:], dy[part.where].mT)
            (_hold if hold else _euler)(run, part, a, h, lams, into)
        d_decay = into.decay / run.decay if hold else into.decay
        d_initial = _outside(lam) if continued else None
        return None, None, d_initial, d_step, _outside(d_decay), d_out, *out


@dataclass
class _Gradients:
    """Where gradients go, viewed as the sequence is; ``decay`` [G, N, D/G] is summed up."""

    step: Tensor
    decay: Tensor
    outward: Tensor
    xs: list[Tensor]
    inwards: list[Tensor]


def _euler(run: _Sequence, part: _Part, a: Tensor, h: Tensor, lam: Tensor, into: _Gradients):
    """Gradients of a chunk, w = Δ."""
    d_step = 0
    for k, (x, inward) in enumerate(zip(part.xs, part.inwards, strict=True)):
        into.inwards[k][part.where] = torch.matmul(lam, (part.step * x).mT)
        seen = torch.matmul(inward.mT, lam)  # Σ_n inward λ, [T, B, G, 1, D/G]
        into.xs[k][part.where] = part.step * seen
        d_step = d_step + x * seen
    k = a.mul_(h[:-1]).mul_(lam)
    torch.mul(k, run.decay, out=lam)
    into.step[part.where] = lam.sum(3, keepdim=True).add_(d_step)
    into.decay += k.mul_(part.step).sum((0, 1))


def _hold(run: _Sequence, part: _Part, a: Tensor, h: Tensor, lam: Tensor, into: _Gradients):
    """Gradients of a chunk, w = (a − 1)/A; ``into.decay`` gets A ∂A."""
    q, u = run.buffer("q", len(a)), run.buffer("u", len(a))
    weighted = q.mul_(lam).mul_(run.inverse)  # λ w
    for k, (x, inward) in enumerate(zip(part.xs, part.inwards, strict=True)):
        into.inwards[k][part.where] = torch.matmul(weighted, x.mT)
        into.xs[k][part.where] = torch.matmul(inward.mT, weighted)
    into.decay -= weighted.mul_(u).sum((0, 1))
    k = u.addcmul_(run.decay, h[:-1]).mul_(a).mul_(lam)
    into.step[part.where] = k.sum(3, keepdim=True)
    into.decay += k.mul_(part.step).sum((0, 1))


def _inside(t: Tensor, groups: int) -> Tensor:
    """[B, D, N] → [B, G, N, D/G]."""
    return t.unflatten(1, (groups, -1)).mT


def _outside(t: Tensor) -> Tensor:
    """[…, G, N, D/G] → […, D, N]."""
    return t.mT.flatten(-3, -2)
