"""Measures of latents one for one, of their distribution, and the simplest methods."""

import numpy as np
import pytest
import torch

from latentsmith.data.text.tokens.base import EOS_ID
from latentsmith.errors import UserError
from latentsmith.metrics.sliced_w2 import directions, quantile_gap, sliced_w2, sliced_w2_floor
from latentsmith.metrics.text_baselines import (
    Bags,
    LinearText,
    RidgeBag,
    _gram,
    constant_text,
    drawn_pool,
    nearest_rows,
    unigram_nll,
)
from latentsmith.metrics.text_latents import (
    cosine_per_sample,
    latent_cosine,
    latent_mse,
    latent_norm_ratio,
    latent_r2,
    noise_area,
    retrieval_at_1,
    retrieved_per_sample,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


class TestPairs:
    def test_by_hand(self):
        z = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        truth = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        assert cosine_per_sample(z, truth).tolist() == pytest.approx([1, 0.5**0.5])
        assert latent_norm_ratio(z, truth) == pytest.approx((3 + 0.5**0.5) / 2)
        assert latent_mse(z, truth) == pytest.approx((4 + 1) / 4)
        assert latent_r2(z, truth) == pytest.approx(1 - 5 / 0.5)

    def test_r2_against_scikit_learn(self):
        from sklearn.metrics import r2_score

        truth = normal(200, 5)
        z = truth + 0.3 * normal(200, 5, seed=1)
        weighted = r2_score(truth.numpy(), z.numpy(), multioutput="variance_weighted")
        assert latent_r2(z, truth) == pytest.approx(weighted)

    def test_retrieval_against_scikit_learn(self, monkeypatch):
        from sklearn.metrics.pairwise import cosine_similarity

        monkeypatch.setattr("latentsmith.metrics.text_latents._ROWS", 7)
        truth = normal(60, 4)
        z = truth + normal(60, 4, seed=1)
        near = cosine_similarity(z.numpy(), truth.numpy()).argmax(1)
        found = retrieved_per_sample(z, truth)
        assert found.tolist() == (near == np.arange(60)).astype(float).tolist()
        assert 0 < float(found.mean()) < 1

    def test_one_latent_for_all_finds_nothing(self):
        truth = normal(20, 4)
        truth[1] = truth[0]
        assert retrieval_at_1(truth.mean(0).expand(20, -1), truth) <= 1 / 20
        assert retrieval_at_1(truth, truth) == 18 / 20  # equal texts cannot be told apart

    def test_sequences_of_vectors_are_flattened(self):
        truth = normal(9, 2, 3)
        assert latent_cosine(truth * 2, truth) == pytest.approx(1)

    def test_refusals(self):
        with pytest.raises(UserError, match="one shape"):
            latent_cosine(normal(3, 2), normal(3, 4))
        with pytest.raises(UserError, match="true latent 1 is zero"):
            latent_norm_ratio(normal(2, 2), torch.tensor([[1.0, 0], [0, 0]]))
        with pytest.raises(UserError, match="all true latents are the same"):
            latent_r2(normal(3, 2), torch.ones(3, 2))

    def test_noise_area_is_the_mean_height(self):
        levels = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0])
        assert float(noise_area(levels, torch.full((5,), 0.4))) == pytest.approx(0.4)
        assert float(noise_area(levels, 1 - levels)) == pytest.approx(0.5)
        each = noise_area(levels, torch.stack([1 - levels, levels], 1))
        torch.testing.assert_close(each, torch.tensor([0.5, 0.5]).double())
        with pytest.raises(UserError, match="ascending"):
            noise_area(levels.flip(0), levels)


class TestSlicedW2:
    def test_one_dimension_against_scipy(self):
        from scipy.stats import wasserstein_distance

        for n, m in ((40, 40), (40, 60), (7, 5)):
            a, b = (x.sort(1).values for x in (normal(1, n), 2 * normal(1, m, seed=1) + 1))
            assert float(quantile_gap(a, b)) == pytest.approx(self.fine(a, b), rel=1e-9)
        # scipy has the first power only: for a shift both are the shift
        a = normal(1, 30).sort(1).values
        shift = wasserstein_distance(a[0].numpy(), (a[0] + 3).numpy())
        assert float(quantile_gap(a, a + 3)) == pytest.approx(shift**2)

    def fine(self, a, b):
        """Every point repeated until both sides have as many."""
        n, m = a.shape[1], b.shape[1]
        x, y = a.repeat_interleave(m, 1), b.repeat_interleave(n, 1)
        return float((x - y).square().mean())

    def test_a_shift_and_a_scale(self):
        x = normal(500, 6)
        shift = torch.tensor([2.0, 0, 0, 0, 0, 0]).double()
        seen = (directions(256, 6, 0) @ shift).square().mean().sqrt()
        assert sliced_w2(x + shift, x) == pytest.approx(float(seen))
        assert sliced_w2(x, x) == 0
        assert 0.3 < sliced_w2(1.5 * x, x) < 0.7

    def test_sees_what_mean_and_covariance_do_not(self):
        from latentsmith.metrics.frechet import frechet_distance

        x = normal(4000, 2)
        signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).double().repeat(1000, 1)
        floor = sliced_w2_floor(normal(4000, 2, seed=1), x, 4000)[0]
        assert frechet_distance(signs, x) < 0.01
        assert sliced_w2(signs, x) > 5 * floor

    def test_the_floor_falls_with_the_count(self):
        train, test = normal(4000, 8), normal(1000, 8, seed=1)
        few, many = (sliced_w2_floor(train, test, n)[0] for n in (50, 2000))
        assert few > 2 * many
        assert "50 training latents" in sliced_w2_floor(train, test, 50)[1]["floor"]


def sentences(n: int, seed: int = 0) -> torch.Tensor:
    """Token rows [n, 8] of 3 to 7 of the tokens 3 … 13."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 14, (n, 8), generator=rng)
    length = torch.randint(3, 8, (n, 1), generator=rng)
    return torch.where(torch.arange(8) < length, ids, EOS_ID)


class TestBaselines:
    def test_constant_and_unigram(self):
        train = torch.tensor([[3, 4, 1], [3, 5, 1], [6, 5, 1]])
        assert constant_text(train, 2).tolist() == [[3, 5, 1]] * 2
        # counts with one more each: EOS 4, 3: 3, 4: 2, 5: 3, 6: 2, the other two 1 each
        nll = unigram_nll(train, torch.tensor([[3, 1, 1]]), 7)
        assert float(nll) == pytest.approx(-(np.log(3 / 16) + np.log(4 / 16)) / 2)

    def test_nearest(self):
        pool = normal(50, 4)
        assert nearest_rows(3 * pool[[7, 2]], pool).tolist() == [7, 2]
        with pytest.raises(UserError, match="two encoders"):
            nearest_rows(pool[:, :3], pool)
        rows = drawn_pool(50, 10)
        assert len(rows.unique()) == 10 and int(rows.max()) > 9
        with pytest.raises(UserError, match="at least 60"):
            drawn_pool(50, 60)

    def test_bags_have_length_one_and_ignore_order_and_fill(self):
        ids = torch.tensor([[3, 4, 3, 3, 3, 1], [3, 3, 3, 4, 3, 1], [5, 1, 3, 3, 3, 3]])
        x = Bags.of(ids, 6, 2).matrix(ids).to_dense()
        root = torch.tensor([2.0, 1.0]).double() / 5**0.5
        torch.testing.assert_close(x, torch.stack([root, root, torch.zeros(2).double()]))

    def test_gram(self, monkeypatch):
        monkeypatch.setattr("latentsmith.metrics.text_baselines._ROWS", 9)
        ids = sentences(40)
        bags = Bags.of(ids, 14, 8)
        x = bags.matrix(ids).to_dense()
        torch.testing.assert_close(_gram(bags, ids), x.T @ x)

    def test_ridge_against_scikit_learn(self):
        from sklearn.linear_model import Ridge

        ids, val = sentences(300), sentences(60, 1)
        z = normal(300, 5)
        made = RidgeBag.fit(ids, z, val, normal(60, 5, seed=1), vocabulary=14, strengths=[0.5])
        x, y = (made.bags.matrix(part).to_dense().numpy() for part in (ids, val))
        oracle = Ridge(0.5).fit(x, z.numpy()).predict(y)
        np.testing.assert_allclose(made(val).numpy(), oracle, rtol=1e-4, atol=1e-5)

    def test_ridge_learns_a_bag_and_chooses_by_validation(self):
        words = normal(14, 6)
        ids, val, test = sentences(400), sentences(80, 1), sentences(80, 2)

        def latents(part):
            bags = Bags(torch.arange(14), torch.arange(14))
            return torch.sparse.mm(bags.matrix(part), words)

        made = RidgeBag.fit(
            ids, latents(ids), val, latents(val), vocabulary=14, strengths=(1e-6, 1e4)
        )
        assert made.strength == 1e-6 and latent_cosine(made(test), latents(test)) > 0.9999

    def test_linear_text_against_least_squares(self):
        ids, z = sentences(200), normal(200, 5)
        made = LinearText.fit(z, ids, z[:50], ids[:50], vocabulary=14, strengths=[0.0])
        x = np.concatenate([z.numpy(), np.ones((200, 1))], 1)
        for place in range(8):
            hot = np.eye(14)[ids[:, place].numpy()]
            oracle = np.linalg.lstsq(x, hot, rcond=None)[0]
            np.testing.assert_allclose(made.weight[place].numpy(), oracle, atol=1e-5)

    def test_linear_text_reads_what_is_linear(self):
        ids = sentences(300)
        z = torch.nn.functional.one_hot(ids, 14).double().flatten(1) @ normal(8 * 14, 90)
        made = LinearText.fit(z[:200], ids[:200], z[200:250], ids[200:250], vocabulary=14)
        assert float((made(z[250:]) == ids[250:]).double().mean()) > 0.9

    def test_other_counts_are_refused(self):
        ids = sentences(10)
        with pytest.raises(UserError, match="9 latents for 10 texts"):
            RidgeBag.fit(ids, normal(9, 2), ids, normal(10, 2), vocabulary=14)
