"""Modes of text and latent: the times they mean, and how they are dealt out."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from helpers.text_latent import D, L, batch, context, model, process, rng
from latentsmith.diffusion.text_latent.modes import (
    L2T,
    MODES,
    T2L,
    UNCONDITIONAL,
    ModesConfig,
    Span,
    mode_at,
    passes,
)
from latentsmith.diffusion.text_latent.noised import Rows, joined, noised

ALL = pytest.mark.parametrize("mode", [UNCONDITIONAL, L2T, T2L])
N = 400


def shown(modes, config=None, known=None, **more):
    m = model(**({} if known is None else {"process": known}))
    rows = Rows.of(batch(len(modes), **more), m)
    return noised(rows, modes, config or ModesConfig(), m, context().noise)


def alike(mode, count=N):
    return torch.full((count,), mode)


def test_l2t_gives_the_latent_and_hides_the_text():
    x = shown(alike(L2T))
    assert not x.t_lat.any() and torch.equal(x.z, x.data)
    assert x.learn_text.all() and not x.learn_latent.any()
    assert x.masked.any(1).all() and torch.equal(x.scored, x.masked)
    assert x.t_text.mean() == pytest.approx(0.5, abs=0.01)


def test_t2l_gives_the_text_and_starts_from_noise_half_the_time():
    x = shown(alike(T2L))
    assert not x.t_text.any() and not x.masked.any() and not x.scored.any()
    assert x.learn_latent.all() and not x.learn_text.any()
    full = x.t_lat == 1
    assert full.float().mean() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(x.z[full], x.noise[full])
    assert x.t_lat[~full].mean() == pytest.approx(0.5, abs=0.06)


def test_unconditional_noises_both_apart_and_drops_each_now_and_then():
    x = shown(alike(UNCONDITIONAL))
    assert x.learn_text.all() and x.learn_latent.all()
    no_text, no_latent = x.t_text == 1, x.t_lat == 1
    assert no_text.float().mean() == pytest.approx(0.1, abs=0.01)
    assert no_latent.float().mean() == pytest.approx(0.1, abs=0.01)
    assert not (no_text & no_latent).any() and x.masked[no_text].all()
    kept = ~(no_text | no_latent)
    together = torch.corrcoef(torch.stack([x.t_text[kept], x.t_lat[kept]]))[0, 1]
    assert abs(float(together)) < 0.15


@pytest.mark.parametrize(("policy", "full"), [("full", 1.0), ("random", 0.0), ("mix", 0.25)])
def test_policies(policy, full):
    config = ModesConfig(text_times=policy, latent_times=policy, full_share=0.25)
    for mode, name in ((L2T, "t_text"), (T2L, "t_lat")):
        t = getattr(shown(alike(mode), config), name)
        assert (t == 1).float().mean() == pytest.approx(full, abs=0.01)


def test_times_are_spread_evenly():
    t = shown(alike(L2T)).t_text
    assert (t.sort().values - (torch.arange(N) + 0.5) / N).abs().max() <= 0.5001 / N
    assert not torch.equal(t, t.sort().values)


def test_a_batch_of_many_modes_gives_each_sample_what_its_mode_alone_would():
    modes = torch.randint(3, (60,), generator=rng())
    mixed = shown(modes)
    for mode in range(3):
        own, rows = shown(alike(mode, 60)), modes == mode
        for name in mixed.__dataclass_fields__:
            assert torch.equal(getattr(mixed, name)[rows], getattr(own, name)[rows]), name


@ALL
def test_what_is_missing_is_absent_and_teaches_its_other_side_alone(mode):
    text = torch.arange(N) % 3 != 0
    latent = torch.arange(N) % 3 != 1
    more = batch(N)
    more["latents"][~latent] = torch.nan
    x = shown(alike(mode), has_text=text, has_latent=latent, latents=more["latents"])
    assert (x.t_lat[~latent] == 1).all() and (x.t_text[~text] == 1).all()
    assert x.masked[~text].all() and x.z.isfinite().all()
    both = text & latent
    teaches_text = {UNCONDITIONAL: text, L2T: both, T2L: both & False}[mode]
    teaches_latent = {UNCONDITIONAL: latent, L2T: both & False, T2L: both}[mode]
    assert torch.equal(x.learn_text, teaches_text)
    assert torch.equal(x.learn_latent, teaches_latent)
    assert not x.scored[~teaches_text].any()


def test_padding_is_neither_masked_nor_scored_when_lengths_are_known():
    tokens = batch(N)["tokens"]
    tokens = torch.where((tokens == 1).cumsum(1) > 1, 0, tokens)
    x = shown(alike(L2T), ModesConfig(text_times="full"), process(known_length=True), tokens=tokens)
    assert torch.equal(x.masked, tokens != 0)


def test_random_modes_are_drawn_by_weight_for_each_sample_or_batch():
    config = ModesConfig(mode="random", weights={"l2t": 3.0, "t2l": 1.0})
    ((name, drawn),) = passes(config, 4000, 0, rng())
    assert name == "random" and set(drawn.tolist()) == {L2T, T2L}
    assert (drawn == L2T).float().mean() == pytest.approx(0.75, abs=0.03)
    config.granularity = "batch"
    seen = {tuple(set(passes(config, 8, 0, rng(k))[0][1].tolist())) for k in range(20)}
    assert seen == {(L2T,), (T2L,)}


def test_sequential_is_a_function_of_the_step():
    spans = [Span(mode="l2t", steps=2), Span(mode="t2l"), Span(mode="unconditional", steps=3)]
    turns = ["l2t", "l2t", "t2l", "unconditional", "unconditional", "unconditional"]
    assert [mode_at(spans, step) for step in range(12)] == turns * 2
    config = ModesConfig(mode="sequential", sequence=spans)
    ((name, modes),) = passes(config, 3, 8, rng())
    assert name == "t2l" and modes.tolist() == [T2L] * 3
    assert config.seen == {"l2t", "t2l", "unconditional"}


def test_modes_joined_by_plus_see_every_sample_in_each():
    found = passes(ModesConfig(mode="l2t+t2l"), 5, 0, rng())
    assert [(n, m.tolist()) for n, m in found] == [("l2t", [L2T] * 5), ("t2l", [T2L] * 5)]
    x = joined([shown(alike(L2T, 5)), shown(alike(T2L, 5))])
    assert x.tokens.shape == (10, L) and x.z.shape == (10, D)
    assert x.learn_text.tolist() == [True] * 5 + [False] * 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "l2"}, "there is no mode 'l2'.*l2t"),
        ({"mode": "cycle_vae"}, "there is no mode 'cycle_vae'.*unconditional, l2t, t2l"),
        ({"mode": "l2t+random"}, "there is no mode 'random' to join"),
        ({"mode": "l2t+l2t"}, "names a mode twice"),
        ({"mode": "random", "weights": {}}, "needs a weight above 0"),
        ({"mode": "sequential", "sequence": []}, "needs turns"),
    ],
)
def test_modes_that_are_none_are_errors(settings, words):
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(ModesConfig).validate_python(settings)
    assert MODES == ("unconditional", "l2t", "t2l")
