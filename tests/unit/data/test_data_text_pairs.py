"""Batches of texts with latents, semi-supervised masks, and the latents' scale."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.texts import small_captions
from latentsmith.data.text import pairs as module
from latentsmith.data.text.normalizer import VectorNormalizer, VectorNormalizerConfig
from latentsmith.data.text.pairs import PairBatches, PairData, PairingConfig, encoder_digest
from latentsmith.errors import UserError
from latentsmith.training.batches import rows as cut

KINDS = ("global", "per_dim", "robust", "pca_whiten")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    data, tokenizer = small_captions(tmp_path_factory.mktemp("corpus"))
    x = data.latents(data.rows("train"))
    return data, tokenizer, VectorNormalizerConfig().fit(x, encoder_digest=encoder_digest(data))


class TestPairs:
    def test_a_batch(self, made):
        pairs = PairData.of(made[0], "train", *made[1:])
        batch = pairs.batch(torch.tensor([5, 0]))
        assert {k: tuple(v.shape) for k, v in batch.items()} == {
            "index": (2,), "tokens": (2, 24), "length": (2,), "latents": (2, 1, 16),
            "has_text": (2,), "has_latent": (2,),
        }  # fmt: skip
        raw = made[0].latents(pairs.rows[[5, 0]])
        torch.testing.assert_close(batch["latents"], made[2].normalize(raw))
        assert made[1].decode(batch["tokens"]) == pairs.texts(torch.tensor([5, 0]))
        assert len(cut(batch, slice(0, 1))["tokens"]) == 1

    def test_large_latents_are_read_for_each_batch(self, made, monkeypatch):
        index = torch.tensor([3, 1, 3])
        pairing = PairingConfig(paired=0.5)
        kept = PairData.of(made[0], "train", *made[1:], pairing=pairing)
        monkeypatch.setattr(module, "IN_MEMORY", 0)
        read = PairData.of(made[0], "train", *made[1:], pairing=pairing)
        assert kept.cached is not None and read.cached is None
        assert torch.equal(kept.latents(index), read.latents(index))
        assert kept.digest == read.digest

    def test_what_a_row_has_lost_never_reaches_a_batch(self, made):
        pairs = PairData.of(made[0], "train", *made[1:], pairing=PairingConfig(paired=0.1))
        assert len(pairs) == 200
        batch = pairs.batch(torch.arange(200))
        both = batch["has_text"] & batch["has_latent"]
        assert int(both.sum()) == 20 and bool((batch["has_text"] | batch["has_latent"]).all())
        assert batch["latents"][~batch["has_latent"]].abs().sum() == 0
        assert bool((batch["tokens"][~batch["has_text"]] == 0).all())
        assert bool((batch["length"][~batch["has_text"]] == 0).all())
        assert 80 <= int((~batch["has_text"]).sum()) <= 100

    def test_a_resumed_order_is_the_same(self, made):
        pairs = PairData.of(made[0], "train", *made[1:])
        batches = PairBatches(pairs, 32, seed=1)
        through = list(itertools.islice(batches.iterate(0), 10))
        again = list(itertools.islice(batches.iterate(5 * 32), 5))
        for one, two in zip(through[5:], again, strict=True):
            assert all(torch.equal(one[key], two[key]) for key in one)
        index = torch.cat([batch["index"] for batch in through])
        assert len(index[:200].unique()) == 200

    def test_ranks_share_a_batch(self, made):
        pairs = PairData.of(made[0], "train", *made[1:])
        whole = next(PairBatches(pairs, 32).iterate(64))
        parts = [next(PairBatches(pairs, 32, rank=r, world_size=2).iterate(64)) for r in (0, 1)]
        assert torch.equal(torch.cat([part["index"] for part in parts]), whole["index"])

    def test_columns_come_along(self, made):
        pairs = PairData.of(made[0], "train", *made[1:])
        column = torch.arange(200.0)
        batches = PairBatches(pairs, 8, columns={"pseudo_latents": column})
        batch = next(batches.iterate())
        assert torch.equal(batch["pseudo_latents"], batch["index"].float())
        assert batches.fingerprint != PairBatches(pairs, 8).fingerprint
        with pytest.raises(ValueError, match="'x' has 3 rows for 200"):
            PairBatches(pairs, 8, columns={"x": torch.zeros(3)})

    def test_the_digest_follows_pairing_and_scale(self, made):
        data, tokenizer, normalizer = made
        digests = {
            PairData.of(data, "train", tokenizer, scale, pairing=pairing).digest
            for scale in (normalizer, replace(normalizer, scale=normalizer.scale * 1.01))
            for pairing in (None, PairingConfig(paired=0.5), PairingConfig(paired=0.5, seed=1))
        }
        assert len(digests) == 6

    def test_a_normalizer_of_another_encoder_is_refused(self, made):
        with pytest.raises(UserError, match="fitted on latents of encoder 'another'"):
            PairData.of(*made[:1], "train", made[1], replace(made[2], encoder_digest="another"))

    def test_a_wrong_scale_is_refused(self, made):
        wrong = replace(made[2], scale=made[2].scale * 2)
        with pytest.raises(UserError, match=r"mean \|z\|²/D = 0.25"):
            PairData.of(made[0], "train", made[1], wrong)


class TestPairing:
    @pytest.mark.parametrize(
        ("rest", "text", "latent"),
        [("text", 100, 10), ("latent", 10, 100), ("both", 55, 55)],
    )
    def test_counts(self, rest, text, latent):
        has_text, has_latent = PairingConfig(paired=0.1, rest=rest).masks(100)
        assert (int(has_text.sum()), int(has_latent.sum())) == (text, latent)
        assert int((has_text & has_latent).sum()) == 10

    def test_a_larger_share_keeps_the_rows_of_a_smaller_one(self):
        few, many = (
            torch.logical_and(*PairingConfig(paired=share).masks(100)) for share in (0.1, 0.4)
        )
        assert bool(many[few].all()) and int(many.sum()) == 40
        other = torch.logical_and(*PairingConfig(paired=0.1, seed=1).masks(100))
        assert not torch.equal(few, other)

    def test_the_rest_left_out(self, made):
        pairing = PairingConfig(paired=0.1, drop=True)
        assert len(PairData.of(made[0], "train", *made[1:], pairing=pairing)) == 20
        assert bool(torch.logical_and(*PairingConfig().masks(9)).all())


class TestNormalizer:
    def data(self, n=4000, d=12):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((n, d)) * np.linspace(0.5, 2, d) @ rng.standard_normal((d, d)) + 3
        return torch.tensor(x)

    @pytest.mark.parametrize("kind", KINDS)
    def test_there_and_back(self, kind):
        x = self.data()
        norm = VectorNormalizerConfig(kind=kind, energy=1.0).fit(x[:, None])
        z = norm.normalize(x)
        torch.testing.assert_close(norm.denormalize(z), x)
        assert 0.9 < norm.check(x) < 1.1
        if kind == "global":  # geometry stays, up to one factor
            centered = x - x.mean(0)
            torch.testing.assert_close(z / z.norm(dim=1, keepdim=True),
                                       centered / centered.norm(dim=1, keepdim=True))  # fmt: skip

    def test_per_dim_against_numpy(self):
        x = self.data()
        z = VectorNormalizerConfig(kind="per_dim").fit(x).normalize(x).numpy()
        np.testing.assert_allclose(z, (x - x.mean(0)).numpy() / x.numpy().std(0))

    def test_robust_against_numpy(self):
        x = self.data()
        low, mid, high = np.percentile(x.numpy(), [25, 50, 75], axis=0)
        z = VectorNormalizerConfig(kind="robust").fit(x).normalize(x).numpy()
        np.testing.assert_allclose(z, (x.numpy() - mid) / (0.7413 * (high - low)))

    def test_whitening_against_scikit_learn(self):
        from sklearn.decomposition import PCA

        x = self.data()
        norm = VectorNormalizerConfig(kind="pca_whiten", energy=0.9).fit(x)
        oracle = PCA(0.9, svd_solver="full", whiten=True).fit(x.numpy())
        z = norm.normalize(x)
        assert norm.dim == oracle.n_components_
        scale = (len(x) / (len(x) - 1)) ** 0.5  # they divide by n - 1
        np.testing.assert_allclose(
            z.abs().numpy(), np.abs(oracle.transform(x.numpy())) * scale, atol=1e-9
        )
        assert z.T.cov().sub(torch.eye(norm.dim)).abs().max() < 1e-3

    @pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
    def test_whitening_by_a_power_raises_weak_axes_by_it(self, power):
        x = self.data()
        norm = VectorNormalizerConfig(kind="pca_whiten", energy=1, power=power).fit(x)
        z = norm.normalize(x)
        assert norm.check(x) == pytest.approx(1, rel=1e-6)
        torch.testing.assert_close(norm.denormalize(z), x)
        deviations = np.linalg.svd((x - x.mean(0)).numpy(), compute_uv=False)
        wanted = (deviations / deviations[0]) ** (1 - power)
        np.testing.assert_allclose(z.std(0) / z[:, 0].std(), wanted, rtol=1e-6)
        if power == 0:  # what global does, turned
            turned = VectorNormalizerConfig().fit(x).normalize(x)
            torch.testing.assert_close(z @ z.T, turned @ turned.T)

    @pytest.mark.parametrize("kind", ["per_dim", "robust", "pca_whiten"])
    def test_dead_dimensions_are_dropped_and_come_back_as_they_were(self, kind):
        x = self.data()
        x[:, 3] = 0.25
        x[:, 7] = 1e-30 * torch.randn(len(x), dtype=x.dtype)
        norm = VectorNormalizerConfig(kind=kind, energy=1.0).fit(x)
        z = norm.normalize(x)
        assert z.shape[1] == 10 and float(z.abs().max()) < 50
        torch.testing.assert_close(norm.denormalize(z), x)

    def test_unit_length(self):
        x = torch.nn.functional.normalize(self.data(), dim=1)
        norm = VectorNormalizerConfig(unit=True).fit(x)
        lengths = norm.denormalize(torch.randn(5, 12).double()).norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(5).double())

    @pytest.mark.parametrize("kind", KINDS)
    def test_saved_and_loaded(self, kind, tmp_path):
        x = self.data()
        x[:, 3] = 0
        norm = VectorNormalizerConfig(kind=kind, unit=True).fit(x, encoder_digest="e")
        norm.save(tmp_path)
        loaded = VectorNormalizer.load(tmp_path)
        assert torch.equal(loaded.normalize(x), norm.normalize(x))
        assert (loaded.kind, loaded.encoder_digest, loaded.unit) == (kind, "e", True)

    def test_float16_latents_are_computed_in_float32(self):
        x = self.data().half()
        assert VectorNormalizerConfig().fit(x).normalize(x).dtype == torch.float32

    def test_refusals(self, tmp_path):
        x = self.data()
        with pytest.raises(UserError, match="same vector"):
            VectorNormalizerConfig().fit(torch.ones(5, 3))
        with pytest.raises(UserError, match=r"NaN.*sample 1"):
            VectorNormalizerConfig().fit(torch.tensor([[0.0, 1], [torch.nan, 1]]))
        norm = VectorNormalizerConfig().fit(x)
        with pytest.raises(UserError, match=r"expected 0.8 to 1.25.*fitted on other data"):
            norm.check(x * 3)
        with pytest.raises(UserError, match="width 5 given to a normalizer of width 12"):
            norm.normalize(torch.ones(2, 5))
        with pytest.raises(UserError, match="missing or damaged"):
            VectorNormalizer.load(tmp_path)
