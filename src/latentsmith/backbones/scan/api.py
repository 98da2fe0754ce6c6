"""The two scans as functions.

Both are linear recurrences of a state that forgets and is written to, at positions with steps Δ ≥ 0
between them (time, or distance along a curve):

    h_t = exp(Δ_t A) h_{t−1} + w_t B_t x_t,    y_t = C_t · h_t + skip · x_t

S6 (Gu & Dao 2023, Mamba) has Δ and A per channel; SSD (Dao & Gu 2024, Mamba-2) one Δ and A per
head, which makes it a matrix product. Input rules, for u_t = B_t x_t:

    euler      w_t u_t = Δ_t u_t                     mamba-ssm's; diverges on wide steps
    zoh        (exp(Δ_t A) − 1)/A u_t                u held over the step: exact, adds up
    trapezoid  (exp(Δ_t A) − 1)/A (u_t + u_p)/2      mean of the step's two ends, second order

p is the last position before t that *is there*: a position whose steps are all 0 is not. It changes
no state under any rule and is nobody's predecessor; its y reads the state. The first position that
is there has no predecessor and holds its own input (as zoh) unless ``previous`` gives one.
"""

from typing import get_args

import torch
from torch import Tensor

from latentsmith.backbones.scan.base import (
    Injection,
    Rule,
    ScanBackend,
    ScanOutput,
    backend_named,
)
from latentsmith.backbones.scan.checks import check_selective, check_ssd
from latentsmith.backbones.scan.rules import preceding, ssd_weight
from latentsmith.errors import UserError, nearest

Previous = tuple[Tensor, Tensor]
"""(x, inward) of the position before the first, without their L: for hand-over."""


def selective_scan(
    x: Tensor,
    step: Tensor,
    decay: Tensor,
    inward: Tensor,
    outward: Tensor,
    skip: Tensor | None = None,
    *,
    initial: Tensor | None = None,
    previous: Previous | None = None,
    rule: Rule = "euler",
    backend: str = "chunk",
) -> ScanOutput:
    """S6, see the module's docstring. Computed in float32 (float64 for float64 x) whatever
    autocast says.

    Args:
        x: [B, L, D].
        step: Δ [B, L, D], ≥ 0 (not checked: a look at the values would wait for the device). 0
            everywhere at a position is exact padding.
        decay: A [D, N], negative.
        inward: B [B, L, G, N], or [B, L, N] for G = 1. Channel d uses group d // (D / G): several
            directions with parameters of their own run as one scan.
        outward: C, likewise.
        skip: [D], what of x goes straight to y.
        initial: state before the first position [B, D, N]; None for zeros. Takes a gradient.
        previous: for ``trapezoid``, x [B, D] and inward [B, G, N] (or [B, N]) of the last position
            before the first, when a sequence goes on.
        rule: how inputs enter.
        backend: one of `SCAN_BACKENDS`.

    Raises:
        UserError: shapes that do not fit, an unknown rule or backend, one that cannot run here or
            cannot do what is asked.
    """
    _check_rule(rule, previous)
    inward, outward = _grouped(inward), _grouped(outward)
    check_selective(x, step, decay, inward, outward, skip, initial)
    run = backend_named(backend, x.device, "selective")
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        v, step, decay, inward, outward = (t.to(dtype) for t in (x, step, decay, inward, outward))
        injections = (Injection(v, inward),)
        if rule == "trapezoid":
            before = preceding(v, inward, step, previous)
            injections = (Injection(v / 2, inward), Injection(before.x / 2, before.inward))
        start = None if initial is None else initial.to(dtype)
        y, state = run.selective(injections, step, decay, outward, start, hold=rule != "euler")
        y = y if skip is None else torch.addcmul(y, v, skip.to(dtype))
    return ScanOutput(y.to(x.dtype), state)


def ssd_scan(
    x: Tensor,
    step: Tensor,
    decay: Tensor,
    inward: Tensor,
    outward: Tensor,
    skip: Tensor | None = None,
    *,
    initial: Tensor | None = None,
    previous: Previous | None = None,
    rule: Rule = "euler",
    backend: str = "chunk",
) -> ScanOutput:
    """SSD, see the module's docstring. Computed in float32 (float64 for float64 x) whatever
    autocast says.

    Args:
        x: [B, L, H, P].
        step: Δ [B, L, H], ≥ 0 (not checked). 0 in all heads is exact padding.
        decay: A [H], negative.
        inward: B [B, L, G, N], or [B, L, N] for G = 1. Head h uses group h // (H / G).
        outward: C, likewise.
        skip: [H].
        initial: state before the first position [B, H, P, N]; None for zeros. Takes a gradient.
        previous: for ``trapezoid``, x [B, H, P] and inward [B, G, N] (or [B, N]) of the last
            position before the first.
        rule: how inputs enter.
        backend: one of `SCAN_BACKENDS`.

    Raises:
        UserError: as `selective_scan`.
    """
    _check_rule(rule, previous)
    inward, outward = _grouped(inward), _grouped(outward)
    check_ssd(x, step, decay, inward, outward, skip, initial)
    run = backend_named(backend, x.device, "ssd")
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        v, step, decay, inward, outward = (t.to(dtype) for t in (x, step, decay, inward, outward))
        weight = ssd_weight(step, decay, hold=rule != "euler")[..., None]  # [B, L, H, 1]
        start = None if initial is None else initial.to(dtype)
        if rule == "trapezoid":
            y, state = _ssd_trapezoid(run, v, step, decay, inward, outward, start, weight, previous)
        else:
            y, state = run.ssd(weight * v, step, decay, inward, outward, start)
        y = y if skip is None else torch.addcmul(y, v, skip.to(dtype)[:, None])
    return ScanOutput(y.to(x.dtype), state)


def _ssd_trapezoid(
    run: ScanBackend,
    x: Tensor,
    step: Tensor,
    decay: Tensor,
    inward: Tensor,
    outward: Tensor,
    initial: Tensor | None,
    weight: Tensor,
    previous: Previous | None,
) -> tuple[Tensor, Tensor]:
    """One scan of the predecessors and a local term instead of two scans:

    h_t = g_t + w_t/2 u_t,   g_t = a_t g_{t−1} + (a_t w_{t−1} + w_t)/2 u_p
    """
    before = preceding(x, inward, step, previous)
    kept = torch.exp(step * decay)[..., None]  # a_t
    earlier = torch.cat([torch.zeros_like(weight[:, :1]), weight[:, :-1]], 1)  # w_{t−1}
    late = torch.addcmul(weight, kept, earlier) / 2 * before.x
    y, state = run.ssd(late, step, decay, before.inward, outward, initial)
    now = weight / 2 * x  # [B, L, H, P]
    heads = x.shape[2] // inward.shape[2]
    seen = (inward * outward).sum(-1).repeat_interleave(heads, 2)  # C_t · B_t [B, L, H]
    last = inward[:, -1].repeat_interleave(heads, 1)  # [B, H, N]
    return torch.addcmul(y, seen[..., None], now), torch.addcmul(
        state, now[:, -1, :, :, None], last[:, :, None]
    )


def _grouped(t: Tensor) -> Tensor:
    """[B, L, N] → [B, L, 1, N]."""
    return t[:, :, None] if t.ndim == 3 else t


def _check_rule(rule: str, previous: Previous | None) -> None:
    if rule not in get_args(Rule):
        raise UserError(f"no scan rule {rule!r}. {nearest(rule, get_args(Rule))}")
    if previous is not None and rule != "trapezoid":
        raise UserError(f"rule {rule!r} looks at no predecessor: leave previous out")
