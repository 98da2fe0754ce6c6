"""Steps that follow space; directions as one scan."""

import pytest
import torch

from latentsmith.autoencoders.field.weights import start
from latentsmith.backbones.mixers import MIXERS, Points
from latentsmith.data.fields import grid

WIDTH = 16


def scanning(kind: str, **settings):
    head = {"head": 8} if kind == "ssd" else {"rank": 2}
    how = {"curves": ["hilbert", "hilbert_t"], "state": 4, **head} | settings
    mixer = MIXERS[kind].config(**how).build(WIDTH)
    start(mixer, 0)
    return mixer.double()


SCANS = pytest.mark.parametrize("kind", ["ssd", "s6"])


@SCANS
def test_a_point_given_twice_changes_nobody_else(kind):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 20, WIDTH, generator=rng, dtype=torch.float64)
    where = 2 * torch.rand(2, 20, 2, generator=rng) - 1
    more, again = torch.cat([x, x[:, -1:]], 1), torch.cat([where, where[:, -1:]], 1)
    mixer = scanning(kind)
    torch.testing.assert_close(
        mixer(more, Points(again))[:, :20], mixer(x, Points(where)), rtol=1e-9, atol=1e-9
    )
    indexed = scanning(kind, step="index")
    assert (indexed(more, Points(again))[:, :20] - indexed(x, Points(where))).abs().max() > 1e-3


@SCANS
def test_steps_that_follow_space_mean_the_same_at_another_density(kind):
    """The research page's finding, on lattices: how far a fixed layer's response at fixed points
    moves when the signal is sampled nine times as densely."""

    def moved(step: str) -> float:
        rule = "zoh" if step == "space" else "euler"
        mixer = scanning(kind, step=step, rule=rule, alternate=False)
        found = []
        for side in (16, 48):
            at = grid(side)
            phase = torch.linspace(0, 3, WIDTH, dtype=torch.float64)
            x = torch.sin(2 * at[:, :1].double() + at[:, 1:].double() + phase)[None]
            y = mixer(x, Points(at[None]))
            found.append(
                y.unflatten(1, (side, side))[:, side // 32 :: side // 16, side // 32 :: side // 16]
            )
        return float((found[0] - found[1]).detach().norm() / found[0].detach().norm())

    space, index = moved("space"), moved("index")
    assert space < 0.15 and index > 3 * space


@SCANS
def test_directions_take_turns(kind):
    config = MIXERS[kind].config(curves=["hilbert", "rows", "columns"])
    assert config.lanes(0) == [("hilbert", False), ("hilbert", True)]
    assert config.lanes(4) == [("rows", False), ("rows", True)]
    both = MIXERS[kind].config(curves=["rows", "columns"], alternate=False, backward=False)
    assert both.lanes(7) == [("rows", False), ("columns", False)]


@SCANS
def test_directions_are_the_mean_of_scans_alone(kind):
    """Two directions as one scan of grouped channels, against each direction by itself."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 17, WIDTH, generator=rng, dtype=torch.float64)
    points = Points(2 * torch.rand(2, 17, 2, generator=rng) - 1)
    both = scanning(kind, curves=["hilbert", "rows"], alternate=False, backward=False)
    inside = both.into(x).chunk(2, dim=-1)[0]
    lanes = [points.along(curve) for curve, _ in both.lanes]
    whole = both._scan(inside, lanes)
    for k, (curve, _) in enumerate(both.lanes):
        alone = scanning(kind, curves=[curve], backward=False)
        state = {n: v for n, v in both.state_dict().items() if n in alone.state_dict()}
        rows = both.reads.weight.shape[0] // 2
        state["reads.weight"] = both.reads.weight[k * rows : (k + 1) * rows]
        for name in ("log_decay", "step_bias", "skip", "widen"):
            if name in state:
                state[name] = both.state_dict()[name][k : k + 1]
        alone.load_state_dict(state)
        torch.testing.assert_close(alone._scan(inside, [lanes[k]])[:, :, 0], whole[:, :, k])


def test_a_causal_convolution_looks_back_only():
    mixer = scanning("ssd", conv=4, curves=["rows"], backward=False)
    x = torch.randn(1, 12, 1, WIDTH, dtype=torch.float64)
    late = x.clone()
    late[:, 8:] += 1
    y, z = mixer.conv(x), mixer.conv(late)
    assert torch.equal(y[:, :8], z[:, :8]) and not torch.equal(y[:, 8:], z[:, 8:])


def test_orders_are_found_once(monkeypatch):
    from latentsmith.backbones.mixers import points as module

    calls = []
    real = module.order
    monkeypatch.setattr(module, "order", lambda *a: calls.append(a[1]) or real(*a))
    points = Points(2 * torch.rand(1, 9, 2) - 1)
    mixer = scanning("ssd", alternate=False)
    for _ in range(3):
        mixer(torch.randn(1, 9, WIDTH, dtype=torch.float64), points)
    assert sorted(calls) == ["hilbert", "hilbert_t"]
