"""Decoders that latent diffusion is compared with: autoregressive and one-shot."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from helpers.texts import small_captions
from latentsmith.backbones.text_inverter import TextInverter, TextInverterConfig, ended
from latentsmith.backbones.text_inverter_saved import load_inverter
from latentsmith.backbones.text_inverter_task import TextInverterTask
from latentsmith.data.text.normalizer import VectorNormalizerConfig
from latentsmith.data.text.pairs import PairBatches, PairData, encoder_digest
from latentsmith.data.text.tokens.base import EOS_ID, PAD_ID, said
from latentsmith.errors import UserError
from latentsmith.metrics.text_generation import text_exact
from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import fit
from latentsmith.training.task import StepContext

V, L, SHAPE = 11, 7, (2, 5)
BOTH = pytest.mark.parametrize("order", ["autoregressive", "one_shot"])


def small(order: str, **settings) -> TextInverter:
    """Weights far from their start, where branches add next to nothing."""
    config = TextInverterConfig(
        **{"order": order, "width": 16, "depth": 2, "heads": 2, "latent_tokens": 3} | settings
    )
    network = config.build(V, L, SHAPE)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=rng))
    return network.double()


def drawn(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, V, (n, L), generator=rng)
    tokens[0, 3:] = EOS_ID
    return tokens, torch.randn(n, *SHAPE, generator=rng, dtype=torch.float64)


def test_each_token_sees_those_before_and_no_other():
    network, (tokens, z) = small("autoregressive"), drawn()
    before = network(tokens, z)
    for place in range(L):
        changed = tokens.clone()
        changed[:, place] = 3 + (tokens[:, place] - 2) % (V - 3)
        moved = (network(changed, z) - before).abs().amax((0, 2)) > 1e-9
        assert moved.tolist() == [i > place for i in range(L)]


def test_one_shot_sees_no_token_and_tells_places_apart():
    network, (tokens, z) = small("one_shot"), drawn()
    logits = network(tokens, z)
    assert torch.equal(logits, network(tokens.flip(1), z))
    assert (logits[:, 0] - logits[:, 1]).abs().max() > 1e-3


@BOTH
def test_every_latent_vector_counts_and_gradients_reach_all(order):
    network, (tokens, z) = small(order), drawn()
    z.requires_grad_()
    nats, counted = network.nll(tokens, z)
    (nats * counted).sum().backward()
    assert bool((z.grad.abs().amax(2) > 0).all())
    without = [name for name, p in network.named_parameters() if not bool((p.grad != 0).any())]
    assert not without


def test_the_cache_gives_what_the_whole_text_gives():
    """Greedy decoding by hand: each token the best of a full forward pass."""
    network, (_, z) = small("autoregressive"), drawn(32)
    tokens = torch.full((32, L), 3)
    network.bias.data[[PAD_ID, V - 1]] = -1e9  # never written
    for place in range(L):
        tokens[:, place] = network(tokens, z)[:, place].argmax(-1)
    assert torch.equal(network.generate(z), ended(tokens))
    assert len(tokens.unique(dim=0)) > 1


@BOTH
def test_neither_padding_nor_masks_are_written(order):
    network, (_, z) = small(order), drawn(64)
    network.bias.data[[PAD_ID, V - 1]] = 1e3
    for rng in (None, torch.manual_seed(0)):
        written = network.generate(z, rng=rng)
        assert not ((written == PAD_ID) | (written == V - 1)).any()


def test_the_likelihood_sums_to_one():
    """Over all texts of a small language: of L = 2, any token or the end, then any."""
    config = TextInverterConfig(width=8, depth=1, heads=2, latent_tokens=1)
    network = config.build(4, 2, (3,)).double()
    texts = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    texts = texts[(texts != 0).all(1)]  # no padding
    z = torch.randn(1, 3, generator=torch.manual_seed(0)).double().expand(len(texts), -1)
    nats, _ = network.nll(texts, z)
    padded = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    every, _ = network.nll(padded, z[:1].expand(16, -1))
    assert float((-every.detach().sum(1)).exp().sum()) == pytest.approx(1)
    torch.testing.assert_close(nats, every[(padded != 0).all(1)])


@BOTH
def test_sampling_follows_the_generator_and_the_temperature(order):
    network, (_, z) = small(order), drawn(64)
    one, two, other = (network.generate(z, rng=torch.manual_seed(k)) for k in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)
    cold = network.generate(z, rng=torch.manual_seed(0), temperature=1e-6)
    assert torch.equal(cold, network.generate(z))
    after = (one == EOS_ID).cummax(1).values
    assert bool((one[after] == EOS_ID).all())


def test_a_decoder_of_equal_size():
    config = TextInverterConfig(width=32, heads=2)
    sizes = {
        wanted: sum(
            p.numel() for p in config.matched(wanted, 500, 32, (1, 64)).build(500, 32, (1, 64))
            .parameters()
        )
        for wanted in (60_000, 150_000)
    }  # fmt: skip
    block = 12 * 32**2
    assert all(abs(size - wanted) < 0.6 * block for wanted, size in sizes.items())
    assert config.matched(1, 500, 32, (1, 64)).depth == 1


@BOTH
def test_saved_and_loaded(order, tmp_path):
    network, (tokens, z) = small(order).float(), drawn()
    TextInverterTask(network).save_pretrained(tmp_path)
    assert torch.equal(load_inverter(tmp_path)(tokens, z.float()), network(tokens, z.float()))
    (tmp_path / "text_inverter.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="no readable inverter"):
        load_inverter(tmp_path)


def test_refusals():
    with pytest.raises(ValidationError, match="width 30 must be a multiple of 2 x heads = 8"):
        TypeAdapter(TextInverterConfig).validate_python({"width": 30, "heads": 4})
    with pytest.raises(UserError, match=r"one of \[D\] or \[K0, D\]"):
        TextInverterConfig().build(V, L, (2, 3, 4))
    network, (tokens, z) = small("autoregressive"), drawn()
    with pytest.raises(
        UserError, match=r"latents of shape \[5\] given to an inverter for \[2, 5\]"
    ):
        network(tokens, z[:, 0])


class TestTask:
    def test_unpaired_rows_do_not_count(self):
        network, (tokens, z) = small("autoregressive"), drawn()
        task, ctx = TextInverterTask(network), StepContext(0, 1, 0)
        pair = torch.tensor([True, False, True, False])
        batch = {"tokens": tokens, "latents": z, "has_text": pair}
        nats = network.nll(tokens[pair], z[pair])[0]
        expected = nats[said(tokens[pair])].mean()
        torch.testing.assert_close(task("inverter", batch, ctx)["loss"], expected)
        with pytest.raises(UserError, match="no text with its latent"):
            task("inverter", batch | {"has_latent": ~pair}, ctx)

    def test_noise_is_of_training_only_and_repeats(self):
        network, (tokens, z) = small("autoregressive"), drawn()
        task, batch = TextInverterTask(network, noise=1.0), {"tokens": tokens, "latents": z}
        clean = TextInverterTask(network)("inverter", batch, StepContext(0, 1, 0))["loss"]
        first, same, later = (
            task("inverter", batch, StepContext(seen, 1, 0))["loss"] for seen in (0, 0, 8)
        )
        assert torch.equal(first, same) and not torch.equal(first, later)
        assert not torch.equal(first, clean)
        assert torch.equal(
            task.validate(batch, StepContext(0, 1, 0, fixed_noise=True))["loss"], clean
        )

    @BOTH
    def test_learns_captions_by_heart(self, order, tmp_path):
        data, tokenizer = small_captions(tmp_path, train=24)
        x = data.latents(data.rows("train"))
        scale = VectorNormalizerConfig().fit(x, encoder_digest=encoder_digest(data))
        pairs = PairData.of(data, "train", tokenizer, scale)
        config = TextInverterConfig(order=order, width=32, depth=1, heads=2)
        task = TextInverterTask(config.build(tokenizer.size, tokenizer.length, pairs.shape))
        train = TrainConfig(samples=24 * 200, batch_size=24, lr=1e-2, warmup=240, trackers=[])
        done = fit(task, PairBatches(pairs, 24), train, tmp_path / "run")
        written = task.network.generate(pairs.latents(torch.arange(24)))
        assert done.last["inverter/loss"] < 0.5
        assert text_exact(written, pairs.tokens) > 0.8
        shuffled = task.network.generate(pairs.latents(torch.arange(24).roll(1)))
        assert text_exact(shuffled, pairs.tokens) < 0.2
