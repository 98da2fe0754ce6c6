"""Training on text and latents: the base losses, what a term may change, and what is logged."""

import copy

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from helpers.text_latent import (
    NOW,
    D,
    L,
    V,
    batch,
    config,
    context,
    model,
    network,
    process,
    rng,
    task,
)
from latentsmith.backbones.mmdit import MMDiTConfig
from latentsmith.diffusion.flow import GVPPath
from latentsmith.diffusion.masked import MaskedText
from latentsmith.diffusion.parametrization import convert, of_pair
from latentsmith.diffusion.text_latent.config import TextLatentConfig
from latentsmith.diffusion.text_latent.modes import L2T, T2L, UNCONDITIONAL
from latentsmith.diffusion.text_latent.noised import Rows, noised
from latentsmith.diffusion.text_latent.saved import load_model, save_model
from latentsmith.diffusion.text_latent.task import TextLatentTask, optimizer_step, text_bound
from latentsmith.errors import UserError
from latentsmith.losses.priors.moments import MomentsConfig
from latentsmith.sampling.samplers.ddim import posterior_variance

BASE = {"text", "latent", "forwards", "loss"}


@pytest.mark.parametrize(
    ("mode", "parts"),
    [
        ("l2t", {"text"}),
        ("t2l", {"latent"}),
        ("unconditional", {"text", "latent"}),
        ("random", {"text", "latent"}),
        ("sequential", {"text", "latent"}),
        ("l2t+t2l", {"text", "latent"}),
    ],
)
def test_every_mode_gives_finite_losses_and_gradients(mode, parts):
    t = task(mode)
    out = t("text_latent", batch(), context())
    assert set(out) == parts | {"loss", "forwards"}
    assert all(v.isfinite() for v in out.values())
    out["loss"].backward()
    missing = {n for n, p in t.named_parameters() if p.grad is None}
    if parts == {"text", "latent"}:
        assert missing == set()
    assert float(out["forwards"]) == len(mode.split("+"))


def test_losses_are_those_of_the_naive_loop():
    t = task("l2t+t2l")
    data, ctx = batch(6), context()
    got = t("text_latent", data, ctx)
    m, rows = t.model, Rows.of(data, t.model)
    text = noised(rows, torch.full((6,), L2T), t.config.modes, m, lambda n: ctx.noise(f"l2t/{n}"))
    latent = noised(rows, torch.full((6,), T2L), t.config.modes, m, lambda n: ctx.noise(f"t2l/{n}"))
    losses, errors = [], []
    for i in range(6):
        every, one = torch.arange(L), slice(i, i + 1)
        hidden = m.process.hide(text.tokens[one], text.masked[one])
        zero = torch.zeros(1)
        out = m(hidden, rows.latents[one], text.t_text[one], zero, positions=every, latent=False)
        real = [k for k in range(V) if k not in (0, V - 1)]
        for place in every[text.masked[i]].tolist():
            p = out.logits[place, real].double().softmax(-1)
            losses.append(-p[real.index(int(text.tokens[i, place]))].log())
        seen = m(rows.tokens[one], latent.z[one], zero, latent.t_lat[one]).latent
        error = (seen - rows.latents[one]).square().mean()
        angle = latent.t_lat[i].double() * torch.pi / 2
        snr = (angle.cos() / angle.sin()).square()
        errors.append((error * (1 if latent.t_lat[i] == 1 else snr.clamp(max=5)), error))
    assert float(got["text"]) == pytest.approx(float(torch.stack(losses).detach().mean()), rel=1e-5)
    assert float(got["latent"]) == pytest.approx(
        float(sum(e.detach() for _, e in errors) / 6), rel=1e-5
    )
    total = torch.stack(losses).mean() + sum(w for w, _ in errors) / 6
    assert float(got["loss"].detach()) == pytest.approx(float(total.detach()), rel=1e-5)


def test_a_batch_of_many_modes_has_the_losses_of_its_modes():
    """One tensor path: mixed modes have the loss of each mode's samples, on the same draws."""
    t, data = task("random"), batch(30)
    rows, noise = Rows.of(data, t.model), context().noise
    modes = torch.randint(3, (30,), generator=rng())
    mixed = t._scored(noised(rows, modes, t.config.modes, t.model, noise))[1]
    counts, sums = {"text": 0.0, "latent": 0.0}, {"text": 0.0, "latent": 0.0}
    for mode in (UNCONDITIONAL, L2T, T2L):
        own = noised(rows, torch.full((30,), mode), t.config.modes, t.model, noise)
        part = modes == mode
        alone = type(own)(**{n: getattr(own, n)[part] for n in own.__dataclass_fields__})
        found = t._scored(alone)[1]
        size = {"text": float(alone.scored.sum()), "latent": float(alone.learn_latent.sum())}
        for name in counts:
            counts[name] += size[name]
            sums[name] += size[name] * float(found[name])
    for name in counts:
        assert float(mixed[name]) == pytest.approx(sums[name] / counts[name], rel=1e-5)


@pytest.mark.parametrize(
    "terms",
    [
        {"t2l2t": {"weight": 0.5}},
        {"l2t2l": {"weight": 0.5}},
        {
            "t2l2t": {"weight": 0.5},
            "l2t2l": {"weight": 0.5},
            "prior": MomentsConfig(weight=0.1, **NOW),
        },
    ],
)
def test_terms_leave_the_base_as_it_is_bit_for_bit(terms):
    """Paired ablations: draws and base losses are the same, with and without."""
    net = network()
    plain, more = task(net=net), task(net=copy.deepcopy(net), **terms)
    a, b = (t("text_latent", batch(), context(128)) for t in (plain, more))
    assert torch.equal(a["text"], b["text"]) and torch.equal(a["latent"], b["latent"])
    assert set(a) == BASE and float(b["loss"]) != float(a["loss"])
    off = {"t2l2t": {"weight": 0.0}, "l2t2l": {"weight": 0.0}}
    c = task(net=copy.deepcopy(net), **off)("text_latent", batch(), context(128))
    assert torch.equal(a["loss"], c["loss"]) and float(c["forwards"]) == 2


def test_terms_begin_and_rise_when_they_should_and_cost_nothing_before():
    cycle = {"weight": 0.5, "warmup": 0.2, "ramp": 0.2}
    t = task(t2l2t=cycle)
    seen = {s: t("text_latent", batch(), context(s)) for s in (0, 199, 200, 300, 400, 900)}
    assert ["cycle_text" in p for p in seen.values()] == [False, False, False, True, True, True]
    assert float(seen[0]["forwards"]) == 2 and float(seen[300]["forwards"]) == 4
    for samples, factor in ((300, 0.25), (400, 0.5), (900, 0.5)):
        parts = seen[samples]
        base = task(net=copy.deepcopy(t.network))("text_latent", batch(), context(samples))
        extra = float(parts["loss"] - base["loss"])
        assert extra == pytest.approx(factor * float(parts["cycle_text"]), rel=1e-3)


def test_terms_between_their_turns_are_not_computed():
    t = task(l2t2l={"weight": 1.0, "every": 3})
    steps = [t("text_latent", batch(), context(16 * k)) for k in range(6)]
    assert ["cycle_latent" in p for p in steps] == [True, False, False] * 2


def test_steps_are_counted_in_samples():
    assert optimizer_step(context(640, micros=2, world_size=4), 16) == 5


def test_same_context_same_loss_and_other_samples_other_loss():
    t = task("random", t2l2t={"weight": 1.0}, l2t2l={"weight": 1.0})
    a, b, c = (t("text_latent", batch(), context(s))["loss"] for s in (64, 64, 80))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_rows_without_text_or_latent_are_seen_by_the_right_terms():
    text, latent = torch.arange(16) % 4 != 0, torch.arange(16) % 4 != 1
    data = batch(has_text=text, has_latent=latent)
    spoiled = batch(has_text=text, has_latent=latent)
    spoiled["tokens"] = torch.where(text[:, None], data["tokens"], 5)
    spoiled["latents"] = torch.where(latent[:, None], data["latents"], torch.nan)
    t = task(
        "l2t+t2l+unconditional", t2l2t={"weight": 1.0}, l2t2l={"weight": 1.0},
        prior=MomentsConfig(weight=1.0, **NOW),
    )  # fmt: skip
    a, b = (t("text_latent", x, context()) for x in (data, spoiled))
    assert all(torch.equal(a[n], b[n]) for n in a)
    a["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in t.parameters())
    only = batch(has_text=torch.zeros(16).bool(), has_latent=torch.ones(16).bool())
    parts = t("text_latent", only, context())
    assert "cycle_text" not in parts and "prior" not in parts and "cycle_latent" in parts


def test_validation_sees_every_mode_and_is_repeatable():
    t = task("l2t", t2l2t={"weight": 1.0})
    a, b = (t.validate(batch(), context(s, fixed_noise=True)) for s in (0, 640))
    expected = {
        "loss", "l2t/text", "t2l/latent", "unconditional/text", "unconditional/latent",
        "t2l/full", "t2l/cosine", "nll",
    }  # fmt: skip
    assert set(a) == expected and all(torch.equal(a[n], b[n]) for n in a)
    torch.testing.assert_close(a["loss"], a["l2t/text"])


@pytest.mark.parametrize("predicts", ["data", "v", "noise"])
def test_parametrizations_come_back(predicts):
    path, generator = GVPPath(), rng()
    x, e = torch.randn(2, 40, D, generator=generator, dtype=torch.float64)
    t = torch.linspace(0.02, 0.98, 40, dtype=torch.float64)
    z = path.mix(x, e, t)
    value = of_pair(x, e, t, path, predicts)
    torch.testing.assert_close(convert(value, z, t, path, predicts, "data"), x)
    torch.testing.assert_close(convert(value, z, t, path, predicts, "noise"), e)


def test_posterior_of_the_cosine_path():
    """q(z_s | z_t, x) = N(a z_t + b x, v): a α_t + b = α_s, and a² σ_t² + v = σ_s²."""
    path = GVPPath()
    for t, s in ((1.0, 0.7), (0.5, 0.4), (0.1, 0.02)):
        alpha_t, alpha_s = (float(path.alpha(torch.tensor(u).double())) for u in (t, s))
        sigma_t, sigma_s = (float(path.sigma(torch.tensor(u).double())) for u in (t, s))
        v = posterior_variance(alpha_t, sigma_t, alpha_s, sigma_s)
        kept = (sigma_s**2 - v) ** 0.5 / sigma_t
        b = alpha_s - kept * alpha_t
        ratio = alpha_t / alpha_s
        assert kept == pytest.approx(ratio * sigma_s**2 / sigma_t**2, abs=1e-12)
        assert b == pytest.approx(alpha_s * (sigma_t**2 - (ratio * sigma_s) ** 2) / sigma_t**2)
        assert kept**2 * sigma_t**2 + v == pytest.approx(sigma_s**2, abs=1e-12)


@pytest.mark.parametrize("predicts", ["v", "noise"])
def test_other_parametrizations_train(predicts):
    t_max = 0.98 if predicts == "noise" else 1.0
    t = task("t2l", predicts=predicts, t_max=t_max)
    out = t("text_latent", batch(), context())
    out["loss"].backward()
    assert out["loss"].isfinite()
    rows = Rows.of(batch(), t.model)
    shown = noised(rows, torch.full((16,), T2L), t.config.modes, t.model, context().noise)
    assert float(shown.t_lat.max()) == pytest.approx(t_max)
    assert t.model.latents_of(rows.tokens, shown.noise).isfinite().all()


def test_shuffled_latents_cost_likelihood_only_where_they_are_used():
    m = model()
    data = batch(8)
    own, other = (
        text_bound(m, data["tokens"], z, rng(), draws=2)
        for z in (data["latents"], data["latents"].roll(1, 0))
    )
    assert not torch.equal(own, other)
    with torch.no_grad():  # deaf to the latent
        for name, p in m.network.named_parameters():
            if name.startswith("latent_in"):
                p.zero_()
    own, other = (
        text_bound(m, data["tokens"], z, rng(), draws=2)
        for z in (data["latents"], data["latents"].roll(1, 0))
    )
    torch.testing.assert_close(own, other)


def test_save_and_load(tmp_path):
    t = task(net=network("none"), predicts="v")
    t.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    tokens, noise = batch()["tokens"], torch.randn(16, D, generator=rng())
    assert torch.equal(again.latents_of(tokens, noise), t.model.latents_of(tokens, noise))
    assert (again.process, again.predicts) == (t.model.process, "v")
    (tmp_path / "text_latent.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="missing or damaged"):
        load_model(tmp_path)
    settings = tmp_path / "text_latent.json"
    settings.write_text(settings.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(UserError, match="is of format 1, and this version of latentsmith reads 2"):
        load_model(tmp_path)
    shared = model(network("full"))
    save_model(shared, tmp_path / "shared")
    assert torch.equal(
        load_model(tmp_path / "shared").latents_of(tokens, noise), shared.latents_of(tokens, noise)
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"predicts": "noise"}, "predicts noise learns nothing.*set t_max to at most 0.98"),
        ({"cycles": {"l2t2t": {}}}, "l2t2t is no cycle.*is l2t2l"),
        ({"cycles": {"t2l2t": {"bridge": "through", "freeze": "exclusive"}}}, "set bridge=detach"),
        ({"cycles": {"t2l2t": {"bridge": "scaled", "source": "noise"}}}, "set bridge=detach"),
        ({"cycles": {"l2t2l": {"bridge": "soft", "freeze": "latent_side"}}}, "or bridge=stop"),
        (
            {"prior": {"kind": "diffusion", "weight": 0.1}, "modes": {"mode": "l2t+t2l"}},
            "asks the network for latents without a text",
        ),
        ({"prior": {"kind": "none", "weight": 0.1}}, "choose prior=moments"),
        ({"modes": {"mode": "l2t2t"}}, "there is no mode 'l2t2t'"),
    ],
)
def test_settings_that_cannot_work_are_errors(settings, words):
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(TextLatentConfig).validate_python(settings)


def test_batches_that_cannot_be_used_are_errors():
    t = task()
    with pytest.raises(UserError, match=r"holds index, tokens, and no 'latents'"):
        t("text_latent", {k: v for k, v in batch().items() if k != "latents"}, context())
    with pytest.raises(UserError, match=r"latents of shape \[1, 12\] in the batch"):
        t("text_latent", batch(latents=torch.zeros(16, 1, D)), context())
    with pytest.raises(UserError, match="pseudo_latents"):
        task(t2l2t={"weight": 1.0, "source": "given"})("text_latent", batch(), context())
    with pytest.raises(UserError, match="no loss has weight 0% into the training"):
        late = {"weight": 1.0, "warmup": 0.5}
        task(t2l2t=late, text_weight=0, latent_weight=0)("text_latent", batch(), context())
    with pytest.raises(UserError, match="for 20 token ids and a text of 7"):
        TextLatentTask(network(), config(), MaskedText(7, 6))
    assert MMDiTConfig().share == "streams" and process().mask == V - 1
