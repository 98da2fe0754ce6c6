"""The average moves, moves right, and always gives the weights back."""

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from latentsmith.training.ema import EMA


def make(decay=0.9):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, EMA(dict(model.named_parameters()), decay)


def shake(model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))


@pytest.mark.parametrize("decay", [0.3, 0.9999])
def test_equals_diffusers(decay):
    model, ema = make(decay)
    theirs = EMAModel(model.parameters(), decay=decay, foreach=True)
    for _ in range(20):
        shake(model)
        ema.update()
        theirs.step(model.parameters())
        for a, b in zip(ema.tensors().values(), theirs.shadow_params, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_moves_whatever_wraps_the_model():
    model, ema = make()
    compiled = torch.compile(model, backend="eager")  # parameters are called _orig_mod.… in it
    before = {n: t.clone() for n, t in ema.tensors().items()}
    optimizer = torch.optim.SGD(compiled.parameters(), 0.1)
    for _ in range(3):
        compiled(torch.ones(4, 3)).sum().backward()
        optimizer.step()
        ema.update()
    assert all(not ema.tensors()[n].equal(t) for n, t in before.items())
    assert list(ema.tensors()) == ["weight", "bias"]


def test_swapped_in_shows_the_average_and_restores_even_after_an_error():
    model, ema = make()
    shake(model), ema.update(), shake(model), ema.update(), shake(model)
    trained = [p.clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="boom"), ema.swapped_in():
        for p, shadow in zip(model.parameters(), ema.tensors().values(), strict=True):
            assert p.equal(shadow)
        raise RuntimeError("boom")
    assert all(p.equal(t) for p, t in zip(model.parameters(), trained, strict=True))
    with ema.swapped_in():
        pass  # and can be opened again


def test_misuse_is_refused():
    _, ema = make()
    with ema.swapped_in():
        with pytest.raises(RuntimeError, match="feed itself"):
            ema.update()
        with pytest.raises(RuntimeError, match="already open"), ema.swapped_in():
            pass
    ema.update()


def test_state_round_trip_goes_on_alike():
    model, ema = make()
    for _ in range(3):
        shake(model), ema.update()
    other = EMA(dict(model.named_parameters()), 0.9)
    other.load({n: t.clone() for n, t in ema.tensors().items()}, ema.updates)
    shake(model), ema.update(), other.update()
    for a, b in zip(ema.tensors().values(), other.tensors().values(), strict=True):
        assert a.equal(b)


def test_copy_to_params_is_for_good():
    model, ema = make()
    shake(model), ema.update(), shake(model)
    ema.copy_to_params()
    assert all(p.equal(t) for p, t in zip(model.parameters(), ema.tensors().values(), strict=True))


def test_gradients_can_be_taken_inside():
    model, ema = make()
    with ema.swapped_in():
        assert model(torch.ones(1, 3)).requires_grad
