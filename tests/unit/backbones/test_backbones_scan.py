"""The two scans: every backend against the recurrence written down, and what they promise."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from latentsmith.backbones.scan import SCAN_BACKENDS, ScanOutput, selective_scan, ssd_scan
from latentsmith.errors import UserError

RULES = ("euler", "zoh", "trapezoid")
LENGTHS = (1, 7, 8, 9, 64, 257)
BATCH, DIM, STATES, GROUPS, WIDTH = 2, 6, 4, 2, 3
SCANS: dict[str, Any] = {"selective": selective_scan, "ssd": ssd_scan}


def cases(scans=tuple(SCANS), but=()) -> list:
    """(scan, backend) that can run here; the others skip and say why."""
    found = []
    for scan, entry in itertools.product(scans, SCAN_BACKENDS):
        if entry.name in but:
            continue
        why = entry.config().lacking(torch.device("cpu"), scan)
        marks = [pytest.mark.skip(reason=why)] if why else []
        found.append(pytest.param(scan, entry.name, marks=marks, id=f"{scan}-{entry.name}"))
    return found


both = pytest.mark.parametrize("scan", SCANS)
every_backend = pytest.mark.parametrize(("scan", "backend"), cases())
every_rule = pytest.mark.parametrize("rule", RULES)


def problem(scan, length, *, dtype=torch.float64, batch=BATCH, groups=GROUPS, step=0.3):
    """x, step, decay, inward, outward, skip, initial; float64 drawn, then rounded."""
    rng = torch.Generator().manual_seed(length)

    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)

    b, c = draw(batch, length, groups, STATES), draw(batch, length, groups, STATES)
    if scan == "selective":
        x, decay = draw(batch, length, DIM), -draw(DIM, STATES).abs() - 0.1
        skip, initial = draw(DIM), draw(batch, DIM, STATES)
    else:
        heads = 2 * groups
        x, decay = draw(batch, length, heads, WIDTH), -draw(heads).abs() - 0.1
        skip, initial = draw(heads), draw(batch, heads, WIDTH, STATES)
    inputs = (x, draw(*x.shape[:3]).abs() * step, decay, b, c, skip, initial)
    return [t.requires_grad_() for t in inputs]


def run(scan, inputs, **how) -> ScanOutput:
    *main, initial = inputs
    return SCANS[scan](*main, initial=initial, **how)


def answers(scan, inputs, **how):
    """y, state and gradients of a fixed random sum of both."""
    out = run(scan, inputs, **how)
    rng = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=rng, dtype=torch.float64).to(t.dtype) for t in out]
    total = torch.stack([(t * w).sum() for t, w in zip(out, weights, strict=True)]).sum()
    return [t.detach() for t in out] + list(torch.autograd.grad(total, inputs))


def assert_close(ours, theirs, tolerance):
    """Each within ``tolerance`` of its largest value."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and torch.isfinite(a).all()
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-30)


@every_backend
@every_rule
def test_gradcheck(scan, backend, rule):
    inputs = problem(scan, 5)

    def function(*inputs):
        return tuple(run(scan, inputs, rule=rule, backend=backend))

    # along random directions: every entry by itself takes minutes, and adds nothing that the
    # comparison with the reference, entry by entry, does not see
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize(("scan", "backend"), cases(but=["reference"]))
@every_rule
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_reference_at_any_length(scan, backend, rule, length):
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        inputs = problem(scan, length, dtype=dtype)
        ours, theirs = (answers(scan, inputs, rule=rule, backend=b) for b in (backend, "reference"))
        assert_close(ours, theirs, tolerance)


@every_backend
@every_rule
def test_two_halves_are_the_whole_with_gradients(scan, backend, rule):
    inputs = problem(scan, 21)
    x, step, decay, b, c, skip, initial = inputs
    whole = run(scan, inputs, rule=rule, backend=backend)
    cut, how = 9, {"rule": rule, "backend": backend}
    front = [t[:, :cut] if t.ndim > 2 else t for t in (x, step)]
    one = SCANS[scan](*front, decay, b[:, :cut], c[:, :cut], skip, initial=initial, **how)
    if rule == "trapezoid":
        how["previous"] = (x[:, cut - 1], b[:, cut - 1])
    back = x[:, cut:], step[:, cut:], decay, b[:, cut:], c[:, cut:], skip
    two = SCANS[scan](*back, initial=one.state, **how)
    y = torch.cat([one.y, two.y], 1)
    torch.testing.assert_close((y, two.state), (whole.y, whole.state))
    total = [(out.square().sum() + state.sum()) for out, state in ((y, two.state), whole)]
    grads = [torch.autograd.grad(t, inputs) for t in total]
    torch.testing.assert_close(grads[0], grads[1])


@every_backend
@every_rule
def test_positions_with_step_0_are_not_there(scan, backend, rule):
    *inputs, initial = (t.detach() for t in problem(scan, 12))
    spread = torch.tensor([1, 2, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17])  # of 19: 0, 3, 4 … are new
    padded = list(inputs)
    for k in (0, 1, 3, 4):
        t = torch.full((BATCH, 19, *inputs[k].shape[2:]), 0.0 if k == 1 else 7.0).double()
        t[:, spread] = inputs[k]
        padded[k] = t
    plain = run(scan, [*inputs, initial], rule=rule, backend=backend)
    wide = run(scan, [*padded, initial], rule=rule, backend=backend)
    torch.testing.assert_close(wide.y[:, spread], plain.y, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(wide.state, plain.state, rtol=1e-13, atol=1e-13)
    first = [t[:, :1] if i in (0, 1, 3, 4) else t for i, t in enumerate(padded)]
    after = run(scan, [*first, initial], rule=rule, backend=backend)
    assert torch.equal(after.state, initial)


@every_backend
def test_a_silent_position_only_decays_and_gaps_telescope(scan, backend):
    x, step, decay, b, c, skip, initial = (t.detach() for t in problem(scan, 1))
    how = {"rule": "zoh", "backend": backend, "initial": initial}
    x = torch.zeros_like(x)
    once = SCANS[scan](x, step, decay, b, c, skip, **how)
    kept = torch.exp(step[:, 0, :, None] * decay if scan == "selective" else step[:, 0] * decay)
    torch.testing.assert_close(
        once.state, initial * (kept if scan == "selective" else kept[..., None, None])
    )
    x, step2, b, c = (torch.cat([t, t], 1) for t in (x, step, b, c))
    step2[:, 0] *= 0.3
    step2[:, 1] *= 0.7
    twice = SCANS[scan](x, step2, decay, b, c, skip, **how)
    torch.testing.assert_close(twice.state, once.state, rtol=1e-12, atol=1e-14)


@every_backend
def test_held_inputs_telescope(scan, backend):
    """A constant input over one step or over two that add up to it: the same state (zoh)."""
    x, step, decay, b, c, skip, initial = (t.detach() for t in problem(scan, 1))
    how = {"rule": "zoh", "backend": backend, "initial": initial}
    once = SCANS[scan](x, step, decay, b, c, skip, **how)
    split = torch.cat([0.3 * step, 0.7 * step], 1)
    x, b, c = (torch.cat([t, t], 1) for t in (x, b, c))
    twice = SCANS[scan](x, split, decay, b, c, skip, **how)
    torch.testing.assert_close(twice.state, once.state, rtol=1e-12, atol=1e-13)


@every_backend
@every_rule
def test_large_steps(scan, backend, rule):
    """Decays to exp(−50 |A|) beside steps that hardly decay."""
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 5e-5)):
        inputs = problem(scan, 100, dtype=dtype)
        with torch.no_grad():
            rng = torch.Generator().manual_seed(0)
            size = torch.rand(inputs[1].shape[:2], generator=rng)[..., None]
            inputs[1].copy_((50 * size**8).to(dtype).expand_as(inputs[1]))
            inputs[2].mul_(4)
        ours, theirs = (answers(scan, inputs, rule=rule, backend=b) for b in (backend, "reference"))
        assert_close(ours, theirs, tolerance)


@every_backend
def test_groups_are_separate_scans(scan, backend):
    *inputs, initial = (t.detach() for t in problem(scan, 10))
    whole = run(scan, [*inputs, initial], backend=backend, rule="trapezoid")
    x, step, decay, b, c, skip = inputs
    per = x.shape[2] // GROUPS
    for g in range(GROUPS):
        w = slice(g * per, (g + 1) * per)
        part = (x[:, :, w], step[:, :, w], decay[w], b[:, :, g], c[:, :, g], skip[w])
        alone = run(scan, [*part, initial[:, w]], backend=backend, rule="trapezoid")
        torch.testing.assert_close(alone.y, whole.y[:, :, w])
        torch.testing.assert_close(alone.state, whole.state[:, w])


@both
def test_reverse_is_flip_scan_flip(scan):
    """A loop from the end, written down, against the flipped scan."""
    x, step, decay, b, c, skip, _ = (t.detach() for t in problem(scan, 9, groups=1))
    flipped = SCANS[scan](x.flip(1), step.flip(1), decay, b.flip(1), c.flip(1), skip)
    per = decay if scan == "selective" else decay[:, None]
    h, out = 0, []
    for t in reversed(range(9)):
        dt, bt, ct = step[:, t, :, None], b[:, t], c[:, t]
        if scan == "selective":
            h = torch.exp(dt * per) * h + dt * x[:, t, :, None] * bt
            out.append((h * ct).sum(-1) + skip * x[:, t])
        else:
            h = torch.exp(dt * per)[..., None] * h
            h = h + (dt * x[:, t])[..., None] * bt[:, :, None]
            out.append((h * ct[:, :, None]).sum(-1) + skip[:, None] * x[:, t])
    torch.testing.assert_close(flipped.y.flip(1), torch.stack(out[::-1], 1))


def published_mamba(u, delta, A, B, C, D, z, delta_bias):
    """The formula of mamba-ssm's ``selective_scan_ref`` with delta_softplus, in its layout: u,
    delta, z [B, D, L], B, C [B, N, L]."""
    delta = F.softplus(delta + delta_bias[:, None])
    state, ys = torch.zeros(*u.shape[:2], A.shape[1], dtype=u.dtype), []
    for t in range(u.shape[2]):
        kept = torch.exp(delta[:, :, t, None] * A)
        state = kept * state + delta[:, :, t, None] * B[:, None, :, t] * u[:, :, t, None]
        ys.append((state * C[:, None, :, t]).sum(-1))
    return (torch.stack(ys, 2) + D[:, None] * u) * F.silu(z), state


@pytest.mark.parametrize(("scan", "backend"), cases(["selective"]))
def test_published_weights_give_published_outputs(scan, backend):
    u, delta, A, b, c, D, _ = (t.detach() for t in problem("selective", 33, groups=1))
    rng = torch.Generator().manual_seed(3)
    z = torch.randn(u.shape, generator=rng, dtype=torch.float64)
    bias = torch.randn(DIM, generator=rng, dtype=torch.float64)
    rows, columns = b[:, :, 0].mT, c[:, :, 0].mT
    theirs, last = published_mamba(u.mT, delta.mT, A, rows, columns, D, z.mT, bias)
    ours = SCANS[scan](u, F.softplus(delta + bias), A, b, c, D, backend=backend)
    torch.testing.assert_close(ours.y * F.silu(z), theirs.mT)
    torch.testing.assert_close(ours.state, last)


@every_backend
def test_precision(scan, backend):
    """Half precision in, half precision out, float32 inside; autocast changes nothing."""
    inputs = [t.detach().float() for t in problem(scan, 40)]
    exact = run(scan, inputs, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = run(scan, inputs, backend=backend)
    assert torch.equal(cast.y, exact.y) and torch.equal(cast.state, exact.state)
    half = [t.bfloat16() for t in inputs]
    out = run(scan, half, backend=backend)
    again = run(scan, [t.float() for t in half], backend=backend)
    assert out.y.dtype == torch.bfloat16 and out.state.dtype == torch.float32
    assert torch.equal(out.state, again.state) and torch.equal(out.y, again.y.bfloat16())


@every_backend
@every_rule
def test_backward_keeps_no_tensor_of_all_states(scan, backend, rule):
    if backend == "reference":
        pytest.skip("keeps them: it is plain autograd")
    length, states = 512, 16
    rng = torch.Generator().manual_seed(0)
    shape = (1, length, 64) if scan == "selective" else (1, length, 2, 32)
    x = torch.randn(*shape, generator=rng).requires_grad_()
    step = torch.rand(shape[:3], generator=rng)
    decay = -torch.ones(64, states) if scan == "selective" else -torch.ones(2)
    b, c = torch.randn(2, 1, length, states, generator=rng)
    kept = []

    def keep(t):
        kept.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        SCANS[scan](x, step, decay, b, c, rule=rule, backend=backend)
    assert max(kept) <= length * 64 * states // 8


@both
def test_wrong_arguments_are_told(scan):
    x, step, decay, b, c, _, initial = problem(scan, 4)
    call: Any = SCANS[scan]
    letter = "D" if scan == "selective" else "H"
    with pytest.raises(UserError, match=r"scan: step has shape \[2, 3, \d\] beside x \[2, 4, "):
        call(x, step[:, :3], decay, b, c)
    with pytest.raises(UserError, match=rf"inward has .* with G dividing {letter} = "):
        call(x, step, decay, b.repeat(1, 1, 4, 1)[:, :, :5], c)
    with pytest.raises(UserError, match=r"outward has shape .* as inward"):
        call(x, step, decay, b, c[..., :2])
    with pytest.raises(UserError, match="initial has shape"):
        call(x, step, decay, b, c, initial=initial[:1])
    with pytest.raises(UserError, match=r"no scan rule 'eular'\. Did you mean 'euler'"):
        call(x, step, decay, b, c, rule="eular")
    with pytest.raises(UserError, match=r"no scan backend 'chunks'\. Did you mean 'chunk'"):
        call(x, step, decay, b, c, backend="chunks")
    with pytest.raises(UserError, match="looks at no predecessor"):
        call(x, step, decay, b, c, previous=(x[:, 0], b[:, 0]))
    with pytest.raises(UserError, match="L = 0"):
        call(x[:, :0], step[:, :0], decay, b[:, :0], c[:, :0])
