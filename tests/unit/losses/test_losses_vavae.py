"""VA-VAE's two losses against the paper's equations written as loops, and its adaptive weight."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers.latent_views import CHANNELS, NAME, PLACE, WIDTH, Toy, batch, toy_view
from latentsmith.errors import UserError
from latentsmith.losses.regularizer import Place
from latentsmith.losses.vavae import VAVAE, VAVAEConfig, pull_ratio


def term(**settings) -> VAVAE:
    return VAVAEConfig(**settings).regularizer(PLACE).double()


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def by_loops(latent, weight, tokens, m1, m2, relations):
    """L_mcos and L_mdms with the teacher on the latent's own grid, in plain Python."""
    samples, _, h, w = latent.shape
    cosines, relation = 0.0, 0.0
    for b in range(samples):
        z = [latent[b, :, i // w, i % w].tolist() for i in range(h * w)]
        p = [[sum(row[c] * v[c] for c in range(CHANNELS)) for row in weight.tolist()] for v in z]
        f = tokens[b].tolist()
        r = z if relations == "latents" else p
        n = h * w
        cosines += sum(max(0, 1 - m1 - cosine(p[i], f[i])) for i in range(n)) / n
        for i in range(n):
            for j in range(n):
                gap = abs(cosine(r[i], r[j]) - cosine(f[i], f[j]))
                relation += max(0, gap - m2) / n**2
    return cosines / samples, relation / samples


@pytest.mark.parametrize("relations", ["latents", "projected"])
@pytest.mark.parametrize(("m1", "m2"), [(0.5, 0.25), (0.0, 0.0)])
def test_the_papers_equations(relations, m1, m2):
    toy, data = Toy().double(), batch(count=3)
    loss = term(relations=relations, cosine_margin=m1, relation_margin=m2, adaptive=False)
    # not the toy's own latents, which all point one way: gaps of both signs
    latent = torch.randn(3, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(7))
    seen = replace(toy_view(toy, data), latent=latent.double())
    value, parts = loss(seen)
    cosines, relation = by_loops(
        seen.latent, loss.projection.weight, data["tokens"], m1, m2, relations
    )
    # the teacher's tokens pass through float32, as a cache holds them
    assert float(parts["cosine"]) == pytest.approx(cosines, abs=1e-6)
    assert float(parts["relation"]) == pytest.approx(relation, abs=1e-6)
    assert value.item() == pytest.approx(cosines + relation, abs=1e-6)
    assert "adaptive" not in parts
    weighted = term(
        relations=relations, cosine_margin=m1, relation_margin=m2, adaptive=False, cosine=2,
        relation=0.5,
    )(seen)[0]  # fmt: skip
    assert weighted.item() == pytest.approx(2 * cosines + 0.5 * relation, abs=1e-6)


def test_margins_leave_alone_what_is_near():
    """Latents that *are* the teacher's tokens: no loss, even without margins."""
    tokens = batch(tokens=16)["tokens"]
    latent = tokens.transpose(1, 2).unflatten(2, (4, 4))
    place = Place(latent_channels=WIDTH, terms={}, token_widths={NAME: WIDTH})
    loss = VAVAEConfig(cosine_margin=0, relation_margin=0).regularizer(place).double()
    torch.nn.init.eye_(loss.projection.weight)
    toy = Toy().double()
    seen = toy_view(toy, batch())
    value, _ = loss(replace(seen, latent=latent, tokens={NAME: tokens}, last_weight=None))
    assert value < 1e-6
    value, _ = loss(replace(seen, latent=-latent, tokens={NAME: tokens}, last_weight=None))
    assert value.item() == pytest.approx(2, abs=1e-6)  # each opposite; relations are the same


def test_gradient_reaches_encoder_and_projection_but_no_decoder():
    toy, loss = Toy().double(), term(adaptive=False)
    loss(toy_view(toy, batch()))[0].backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in toy.encoder.parameters())
    assert all(p.grad is None for p in toy.decoder.parameters())
    assert loss.projection.weight.grad.norm() > 0


def test_adaptive_weight_makes_both_pull_alike():
    toy, loss = Toy().double(), term()
    seen = toy_view(toy, batch())
    value, parts = loss(seen)
    (pull,) = torch.autograd.grad(seen.objective, toy.last, retain_graph=True)
    (push,) = torch.autograd.grad(value, toy.last, retain_graph=True)
    torch.testing.assert_close(push.norm(), pull.norm(), rtol=1e-5, atol=0)
    plain = term(adaptive=False)(seen)[0]
    torch.testing.assert_close(value, parts["adaptive"] * plain)
    (value + seen.objective).backward()  # both graphs are still there
    with torch.no_grad():  # validation has no gradients to compare
        assert "adaptive" not in loss(toy_view(toy, batch()))[1]


def test_ratio_is_bounded_where_alignment_does_not_pull():
    weight = torch.ones(3, requires_grad=True)
    assert pull_ratio(weight.sum(), (weight * 0).sum(), weight) == 1e4
    assert pull_ratio((weight * 0).sum(), weight.sum(), weight) == 0
    assert pull_ratio(2 * weight.sum(), weight.sum(), weight).item() == pytest.approx(2)


def test_the_teachers_grid_is_brought_to_the_latents():
    """2 x 2 tokens on 4 x 4 positions: raster order kept, corners are the corner tokens."""
    toy, data = Toy().double(), batch(tokens=4)
    seen = toy_view(toy, data)
    teacher = term().teacher(seen)
    assert teacher.shape == (6, 16, WIDTH)
    unit = F.normalize(data["tokens"], dim=-1).float()
    for position, token in ((0, 0), (3, 1), (12, 2), (15, 3)):
        torch.testing.assert_close(teacher[:, position], unit[:, token])
    finer = term().teacher(toy_view(toy, batch(tokens=64)))
    assert finer.shape == (6, 16, WIDTH)


def test_scale_of_tokens_and_latents_does_not_matter():
    toy, data = Toy().double(), batch()
    value = term(adaptive=False)(toy_view(toy, data))[0]
    data["tokens"] *= torch.rand(6, 16, 1) + 1e-3
    torch.testing.assert_close(
        term(adaptive=False)(toy_view(toy, data))[0], value, rtol=1e-5, atol=1e-7
    )


def test_a_hole_in_the_cache_is_named():
    toy, data = Toy().double(), batch()
    data["tokens"][4, 7] = 0
    with pytest.raises(UserError, match="teacher tokens of sample 4"):
        term()(toy_view(toy, data))
    with pytest.raises(UserError, match="17 teacher tokens form no grid"):
        term()(toy_view(toy, batch(tokens=17)))


def test_latents_of_zero_have_a_finite_gradient():
    toy = Toy().double()
    for p in toy.encoder[-1].parameters():
        torch.nn.init.zeros_(p)
    loss = term()
    loss(toy_view(toy, batch()))[0].backward()
    assert all(p.grad.isfinite().all() for p in toy.encoder.parameters())


def test_settings():
    assert VAVAEConfig(reference="dino").teachers() == ["dino"]
    with pytest.raises(UserError, match="reference 'dino', which has none"):
        VAVAEConfig(reference="dino").regularizer(PLACE)
    with pytest.raises(ValueError, match="both 0"):
        VAVAEConfig(cosine=0, relation=0)
    a, b = term().projection.weight, term().projection.weight
    assert torch.equal(a, b)  # a function of the seed
