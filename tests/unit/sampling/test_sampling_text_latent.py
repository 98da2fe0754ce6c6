"""Samplers over text and a latent: finite, exact where that can be known, without masks."""

from itertools import pairwise

import pytest
import torch
from scipy.stats import chisquare

from helpers.text_latent import EOS, MASK, PAD, D, L, V, batch, model, process, rng, texts
from latentsmith.data.text.tokens.base import UNK_ID
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.errors import UserError
from latentsmith.sampling.samplers.ddim import DdimConfig
from latentsmith.sampling.samplers.ddpm import DdpmConfig
from latentsmith.sampling.text_latent import search as search_module
from latentsmith.sampling.text_latent import tokens as tokens_module
from latentsmith.sampling.text_latent.both import joint, sequential
from latentsmith.sampling.text_latent.decode import decode, remaining
from latentsmith.sampling.text_latent.latents import one_step, sample_latents
from latentsmith.sampling.text_latent.search import MOST_HIDDEN, search
from latentsmith.sampling.text_latent.tokens import (
    Canvas,
    Odds,
    TextSamplerConfig,
    draw,
    masked_odds,
    nucleus,
)

KINDS = pytest.mark.parametrize("kind", ["confidence", "ancestral"])
STEPS = pytest.mark.parametrize("steps", [1, 3, L, 50])


def no_fill():
    return process(eos=None)


@KINDS
@STEPS
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_texts_are_whole_and_without_masks(kind, steps, guidance):
    m = model()
    config = TextSamplerConfig(
        kind=kind, steps=steps, temperature=1.0, top_p=0.9, guidance=guidance
    )
    got = decode(m, batch(6)["latents"], config, rng())
    assert got.tokens.shape == (6, L) and got.tokens.dtype == torch.int64
    assert not torch.isin(got.tokens, torch.tensor([MASK, PAD])).any()
    ended = (got.tokens == EOS).cumsum(1) > 0
    assert (got.tokens[ended] == EOS).all()
    assert (
        got.confidence.isfinite().all()
        and (got.confidence > 0).all()
        and (got.confidence <= 1).all()
    )
    looks = min(steps, L) if kind == "confidence" else steps
    assert got.nfe <= looks * (1 if guidance == 1 else 2)
    if kind == "confidence":
        assert got.nfe == looks * (1 if guidance == 1 else 2)


@KINDS
def test_same_generator_same_text_and_every_row_its_own(kind):
    m, z = model(), batch(6)["latents"]
    config = TextSamplerConfig(kind=kind, steps=4, temperature=1.0)
    a, b, c = (decode(m, z, config, rng(s)).tokens for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert len({tuple(r) for r in a.tolist()}) == 6


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 2, 5, L, 30])
def test_confidence_shows_every_place_once(schedule, steps, monkeypatch):
    m = model(process=no_fill())
    shown = []
    put = Canvas.put

    def counted(self, places, tokens, log_p):
        shown.append(places.sum(1))
        put(self, places, tokens, log_p)

    monkeypatch.setattr(Canvas, "put", counted)
    decode(m, batch(5)["latents"], TextSamplerConfig(steps=steps, schedule=schedule), rng())
    assert torch.stack(shown).sum(0).tolist() == [L] * 5
    assert len(shown) == min(steps, L) and all((s >= 1).all() for s in shown)
    assert remaining(schedule, 0) == 1 and remaining(schedule, 1.0) == 0


def test_confidence_shows_the_surest_first_and_tells_its_probability():
    m = model(process=no_fill())
    z = batch(4)["latents"]
    canvas = Canvas.blank(m, 4, None)
    t, zero = torch.ones(4), torch.zeros(4)
    log_p = masked_odds(m, canvas, z, t, zero, 1.0, rng()).log_p()
    best = log_p.max(-1)
    sure = best.values.view(4, L)
    one = decode(m, z, TextSamplerConfig(steps=1), rng())
    assert torch.equal(one.tokens, best.indices.view(4, L))
    torch.testing.assert_close(one.confidence, sure.mean(1).exp())
    from latentsmith.sampling.text_latent.decode import confidence

    settings = TextSamplerConfig(steps=L, schedule="linear")
    confidence(m, canvas, z, settings, rng(), 0.0, leave=L - 1)
    known = canvas.tokens != MASK
    assert torch.equal(known, torch.nn.functional.one_hot(sure.argmax(1), L).bool())


@KINDS
def test_known_tokens_stay_and_only_the_rest_is_filled(kind):
    m = model(process=no_fill())
    given = texts(6)
    hidden = torch.rand(6, L, generator=rng()) < 0.5
    given = torch.where(hidden, MASK, given)
    got = decode(m, batch(6)["latents"], TextSamplerConfig(kind=kind, steps=3), rng(), given=given)
    assert torch.equal(got.tokens[~hidden], given[~hidden])
    assert (got.tokens != MASK).all()
    whole = decode(m, batch(6)["latents"], TextSamplerConfig(kind=kind), rng(), given=texts(6))
    assert torch.equal(whole.tokens, texts(6)) and whole.nfe == 0
    with pytest.raises(UserError, match="6 given texts for 5 latents"):
        decode(m, batch(5)["latents"], TextSamplerConfig(kind=kind), rng(), given=given)


def test_texts_of_known_length_keep_their_padding():
    m = model(process=process(known_length=True))
    given = torch.where(torch.arange(L) < torch.tensor([[3], [8]]), MASK, PAD)
    for kind in ("confidence", "ancestral"):
        config = TextSamplerConfig(kind=kind, temperature=1.0)
        got = decode(m, batch(2)["latents"], config, rng(), given=given)
        assert torch.equal(got.tokens == PAD, given == PAD) and (got.tokens != MASK).all()


def test_ancestral_shows_places_as_the_posterior_does():
    """Of 8 places, after k of 8 even steps on average 8 p(t_k) are masked."""
    m = model(process=no_fill())
    left = []
    put = Canvas.put

    class Counting(Canvas):
        def put(self, places, tokens, log_p):
            put(self, places, tokens, log_p)
            left.append((self.tokens == MASK).float().mean())

    from latentsmith.sampling.text_latent.decode import ancestral

    start = Canvas.blank(m, 500, None)
    canvas = Counting(start.tokens, None, start.log_p, start.drawn)
    z = torch.randn(500, D, generator=rng())
    ancestral(
        m, canvas, z, TextSamplerConfig(kind="ancestral", steps=8, temperature=1.0), rng(), 0.0
    )
    expected = m.process.share(1 - torch.arange(1, 9) / 8)
    torch.testing.assert_close(torch.stack(left), expected, atol=0.03, rtol=0)


def test_ancestral_samples_from_the_model():
    """One place, one step: tokens come as often as the network says."""
    m = model(process=no_fill())
    z = torch.zeros(1, D)
    given = texts(1).clone()
    given[0, 2] = MASK
    canvas = Canvas.blank(m, 1, given)
    with torch.no_grad():
        log_p = masked_odds(m, canvas, z, torch.ones(1), torch.zeros(1), 1.0, rng()).log_p()
    config = TextSamplerConfig(kind="ancestral", steps=1, temperature=1.0)
    many = decode(m, z.expand(20_000, D), config, rng(), given=given.expand(20_000, L))
    counts = torch.bincount(many.tokens[:, 2], minlength=V).double()
    expected = log_p[0].exp() * 20_000
    frequent = expected > 20
    assert counts[~log_p[0].isfinite()].sum() == 0
    scaled = expected[frequent] * counts[frequent].sum() / expected[frequent].sum()
    assert chisquare(counts[frequent].numpy(), scaled.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_drawn_a_few_places_at_a_time_is_drawn_at_once(monkeypatch, guidance):
    given, free = torch.randn(2, 50, V, generator=rng())
    given[:, 0] = free[:, 0] = -torch.inf
    odds = Odds(given, torch.arange(50), None if guidance == 1 else free, guidance)
    config = TextSamplerConfig(temperature=0.9, top_p=0.95)
    whole, sure = odds.guess(config, rng())
    assert torch.equal(sure, odds.log_p()[torch.arange(50), whole]) and (whole > 0).all()
    for numbers in (1, 7 * V, 50 * V):
        monkeypatch.setattr(tokens_module, "CPU_NUMBERS", numbers)
        tokens, log_p = odds.guess(config, rng())
        assert torch.equal(tokens, whole)
        torch.testing.assert_close(log_p, sure, rtol=1e-12, atol=1e-12)
    nothing = Odds(given[:0], torch.arange(0)).guess(config, rng())
    assert nothing[0].shape == nothing[1].shape == (0,)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_unknown_is_not_written_where_it_is_not_wanted(temperature):
    logits = torch.zeros(200, V)
    logits[:, UNK_ID] = 9
    odds = Odds(logits, torch.arange(200))
    may, never = (TextSamplerConfig(temperature=temperature, unknown=u) for u in (True, False))
    assert (odds.guess(may, rng())[0] == UNK_ID).sum() > 150
    found, sure = odds.guess(never, rng())
    assert not (found == UNK_ID).any() and sure.isfinite().all()


def test_draws_follow_temperature_and_nucleus():
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    log_p = p.log()
    assert nucleus(log_p, 0.6).isfinite().tolist() == [[True, True, False, False]]
    assert nucleus(log_p, 0.5).isfinite().tolist() == [[True, False, False, False]]
    assert nucleus(log_p, 1e-9).isfinite().sum() == 1
    many = draw(log_p.expand(20_000, 4), 2.0, 1.0, rng())
    tempered = p.sqrt() / p.sqrt().sum()
    share = torch.bincount(many, minlength=4) / 20_000
    torch.testing.assert_close(share, tempered[0], atol=0.02, rtol=0, check_dtype=False)
    assert (draw(log_p.expand(100, 4), 0.0, 1.0, rng()) == 0).all()


def test_guidance_leads_away_from_texts_without_a_latent():
    m, z = model(), batch(4)["latents"]
    canvas = Canvas.blank(m, 4, None)
    t, zero = torch.ones(4), torch.zeros(4)
    odds = masked_odds(m, canvas, z, t, zero, 1.0, rng())
    given, places = odds.log_p(), odds.places
    out = m(
        canvas.tokens, torch.randn(4, D, generator=rng()), t, torch.ones(4), positions=places,
        latent=False,
    )  # fmt: skip
    free = m.process.subs(out.logits).double().log_softmax(-1)
    strong = masked_odds(m, canvas, z, t, zero, 3.0, rng()).log_p()
    keep = free.isfinite()
    mixed = torch.where(keep, free + 3 * (given - free), -torch.inf).log_softmax(-1)
    torch.testing.assert_close(strong, mixed)
    none = masked_odds(m, canvas, z, t, zero, 0.0, rng()).log_p()
    torch.testing.assert_close(none, free)


# Latents ------------------------------------------------------------------------------------------


def test_one_step_is_the_mean_of_its_draws():
    m, tokens = model(), texts(5)
    generator = rng()
    got = one_step(m, tokens, rng(), draws=3)
    singles = [one_step(m, tokens, generator).latents for _ in range(3)]
    torch.testing.assert_close(got.latents, torch.stack(singles).mean(0))
    assert got.nfe == 3
    with pytest.raises(ValueError, match="draws=0"):
        one_step(m, tokens, rng(), draws=0)


@pytest.mark.parametrize("predicts", ["data", "v", "noise"])
@pytest.mark.parametrize(
    "sampler",
    [DdimConfig(steps=1), DdimConfig(steps=7), DdimConfig(steps=5, eta=1), DdpmConfig(steps=6)],
)
def test_latents_are_finite_from_pure_noise_on(predicts, sampler):
    m = model(predicts=predicts, t_max=0.98 if predicts == "noise" else 1.0)
    for tokens, guidance in ((texts(4), 1.0), (texts(4), 2.0), (None, 1.0)):
        got = sample_latents(m, tokens, sampler, rng(), count=4, guidance=guidance)
        assert got.latents.shape == (4, D) and got.latents.isfinite().all()
        assert got.nfe == sampler.steps * (1 if guidance == 1 else 2)
        again = sample_latents(m, tokens, sampler, rng(), count=4, guidance=guidance)
        assert torch.equal(got.latents, again.latents)
    assert one_step(m, texts(4), rng()).latents.isfinite().all()


def test_one_step_of_ddim_is_one_step():
    m, tokens = model(), texts(4)
    a = sample_latents(m, tokens, DdimConfig(steps=1), rng()).latents
    torch.testing.assert_close(a, one_step(m, tokens, rng()).latents)


@pytest.mark.parametrize("sampler", [DdimConfig(steps=30), DdpmConfig(steps=30)])
def test_a_network_that_knows_the_latent_gives_it(sampler):
    """Exact posteriors: whatever the noise, the end is what the network says."""
    m, target = model(), torch.randn(4, D, generator=rng(8))

    class Knows(torch.nn.Module):
        latent_shape, length = (D,), L

        def forward(self, tokens, z, *rest, **more):
            from latentsmith.backbones.mmdit import MMDiTOutput

            return MMDiTOutput(None, target)

    knowing = TextLatentModel(Knows(), m.process)  # type: ignore[arg-type]
    got = sample_latents(knowing, texts(4), sampler, rng())
    torch.testing.assert_close(got.latents, target, rtol=1e-4, atol=1e-4)


# Both ---------------------------------------------------------------------------------------------


def test_best_of_takes_the_text_that_comes_back_nearest():
    m, z = model(process=no_fill()), batch(5)["latents"]
    config = TextSamplerConfig(steps=3, temperature=1.0)
    got = search(m, z, config, rng(), candidates=6).best()
    generator = rng()
    texts_ = decode(m, z.repeat_interleave(6, 0), config, generator)
    back = one_step(m, texts_.tokens, generator).latents.view(5, 6, D)
    best = (back - z[:, None]).norm(dim=2).argmin(1)
    assert torch.equal(got.tokens, texts_.tokens.view(5, 6, L)[torch.arange(5), best])
    assert got.nfe == 6 * (3 + 1) and len(set(best.tolist())) > 1
    with pytest.raises(ValueError, match="candidates=0"):
        search(m, z, config, rng(), candidates=0)


def test_search_comes_nearer_and_never_goes_back():
    m, z = model(process=no_fill()), batch(5)["latents"]
    config = TextSamplerConfig(steps=2, temperature=1.0)
    off = []
    for rounds in range(4):
        found = search(m, z, config, rng(), candidates=6, rounds=rounds)
        assert (found.off.diff(dim=1) >= 0).all()
        assert 6 * 3 + rounds * 6 * 2 <= found.nfe <= (1 + rounds) * 6 * (2 + 1)
        off.append(found.off)
        for row in found.tokens.tolist():
            assert rounds == 0 or len({tuple(text) for text in row}) == 6  # no text twice
    for earlier, later in pairwise(off):
        assert (later <= earlier + 1e-6).all()
    assert (off[-1][:, 0] < off[0][:, 0]).any()
    with pytest.raises(ValueError, match="rounds=-1"):
        search(m, z, config, rng(), candidates=6, rounds=-1)


def test_search_hides_a_part_and_keeps_the_rest(monkeypatch):
    m, z = model(process=no_fill()), batch(5)["latents"]
    given = []
    real = search_module.decode

    def watched(*args, **more):
        given.append(more["given"])
        return real(*args, **more)

    monkeypatch.setattr(search_module, "decode", watched)
    config = TextSamplerConfig(steps=2, temperature=1.0)
    found = search(m, z, config, rng(), candidates=30, rounds=1)
    assert given[0] is None
    share = (given[1] == MASK).float().mean(1)
    assert share.min() >= 1 / L and share.max() <= MOST_HIDDEN + 0.35
    assert 0.2 < share.mean() < 0.4
    shown = given[1] != MASK
    first = search(m, z, config, rng(), candidates=30).tokens.flatten(0, 1)
    assert torch.equal(given[1][shown], first[shown])
    assert found.tokens.shape == (5, 30, L)


def test_search_asks_who_is_to_read():
    m, z = model(process=no_fill()), batch(5)["latents"]
    config = TextSamplerConfig(steps=2, temperature=1.0)
    likes = (texts(1)[0] * 0 + 3).float()

    def read(tokens):
        """Far from every latent but for the 3s in a text."""
        wanted = z.repeat_interleave(4, 0)
        return wanted + (tokens != 3).sum(1, keepdim=True).to(wanted)

    found = search(m, z, config, rng(), candidates=4, rounds=8, read=read)
    begun = search(m, z, config, rng(), candidates=4, read=read)
    count = [(f.tokens[:, 0] == likes).float().mean() for f in (begun, found)]
    assert count[1] > count[0]


@pytest.mark.parametrize("first", ["latent", "text"])
def test_pairs_one_after_the_other(first):
    m, config = model(), TextSamplerConfig(steps=4, temperature=1.0)
    got = sequential(m, 5, config, DdimConfig(steps=6), rng(), first=first)
    assert got.nfe == (6 + 4 if first == "latent" else 4 + 1)
    assert got.latents.isfinite().all() and got.tokens.shape == (5, L)
    assert not torch.isin(got.tokens, torch.tensor([MASK, PAD])).any()


@pytest.mark.parametrize("lag", [0.0, 0.4])
@pytest.mark.parametrize("steps", [1, 6])
def test_pairs_together(lag, steps):
    m = model()
    got = joint(m, 5, TextSamplerConfig(steps=steps, temperature=1.0), rng(), lag=lag)
    assert got.nfe == steps and got.latents.isfinite().all()
    assert not torch.isin(got.tokens, torch.tensor([MASK, PAD])).any()


def test_the_latent_is_ahead_by_the_lag(monkeypatch):
    m, seen = model(), []
    forward = m.network.forward

    def looked(tokens, z, t_text, t_lat, **more):
        seen.append((float(t_text[0]), float(t_lat[0])))
        return forward(tokens, z, t_text, t_lat, **more)

    monkeypatch.setattr(m.network, "forward", looked)
    joint(m, 2, TextSamplerConfig(steps=4, temperature=1.0), rng(), lag=0.5)
    assert seen == [(1, 1), (1, 0.5), (1, 0), (0.5, 0)]
    for lag in (-0.1, 1.0):
        with pytest.raises(UserError, match="must be at least 0"):
            joint(m, 2, TextSamplerConfig(), rng(), lag=lag)
    with pytest.raises(UserError, match="have no condition"):
        joint(m, 2, TextSamplerConfig(guidance=2), rng())
