"""Probes against scikit-learn."""

import numpy as np
import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.probes import (
    knn_probe,
    linear_probe,
    logistic_fit,
    pca_features,
    predict,
    ridge_fit,
    ridge_probe,
)


def data(n: int = 300, seed: int = 0, noise: float = 1.0):
    gen = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=gen)
    centres = torch.randn(3, 6, generator=torch.Generator().manual_seed(9))
    return centres[labels] + noise * torch.randn(n, 6, generator=gen), labels


def test_logistic_fit_matches_sklearn():
    from sklearn.linear_model import LogisticRegression

    x, y = data()
    x = x.double()
    for l2 in (1e-1, 1e-3):
        weight = logistic_fit(x, y, 3, l2, steps=300)
        oracle = LogisticRegression(C=1 / (l2 * len(x)), max_iter=5000, tol=1e-10)
        oracle.fit(x.numpy(), y.numpy())
        expected = oracle.predict_proba(x.numpy())
        got = (x @ weight[:-1] + weight[-1]).softmax(1).numpy()
        assert np.abs(got - expected).max() < 5e-4


def test_the_fit_lets_scipy_have_one_blas_thread(monkeypatch):
    """Two of them take turns with torch's threads: five to fifteen times slower on two cores."""
    import scipy.optimize
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    during, minimize = [], scipy.optimize.minimize

    def spy(*args, **kwargs):
        during.append(threads())
        return minimize(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "minimize", spy)
    x, y = data()
    with threadpool_limits(2, user_api="blas"):
        logistic_fit(x, y, 3, 1e-2)
        assert threads() == {2}  # given back
    assert during == [{1}]


@pytest.mark.parametrize("wide", [6, 400])  # primal and dual
def test_ridge_fit_matches_sklearn(wide):
    from sklearn.linear_model import Ridge

    x, y = data()
    x = torch.cat([x, torch.randn(len(x), wide - 6)], 1).double()
    weight = ridge_fit(x, y, 3, 1e-2)
    targets = torch.nn.functional.one_hot(y).double().numpy()
    oracle = Ridge(alpha=1e-2 * len(x)).fit(x.numpy(), targets)
    assert np.allclose(weight[:-1].numpy(), oracle.coef_.T, atol=1e-8)
    assert np.allclose(weight[-1].numpy(), oracle.intercept_, atol=1e-8)
    assert (predict(x, weight).numpy() == oracle.predict(x.numpy()).argmax(1)).all()


@pytest.mark.parametrize("probe", [linear_probe, ridge_probe])
def test_accuracy_is_near_sklearns_and_far_above_chance(probe):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (t, u) = data(400), data(400, seed=1)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    expected = oracle.fit(x.numpy(), y.numpy()).score(t.numpy(), u.numpy())
    assert probe(x, y, t, u) == pytest.approx(expected, abs=0.03)
    shuffled = probe(x, y[torch.randperm(400, generator=torch.Generator().manual_seed(0))], t, u)
    assert shuffled < 0.5 < expected


def test_knn_probe_matches_sklearn():
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    (x, y), (t, u) = data(200), data(150, seed=1)
    scale = StandardScaler().fit(x.numpy())
    for k in (1, 9):
        oracle = KNeighborsClassifier(k).fit(scale.transform(x.numpy()), y.numpy())
        expected = oracle.score(scale.transform(t.numpy()), u.numpy())
        assert knn_probe(x, y, t, u, k=k) == pytest.approx(expected, abs=0.011)


def test_the_strength_is_chosen_without_the_test_set():
    """With many noise features and few samples the weakest regularizer overfits."""
    (x, y), (t, u) = data(60), data(400, seed=1)
    gen = torch.Generator().manual_seed(0)
    x = torch.cat([x, torch.randn(60, 200, generator=gen)], 1)
    t = torch.cat([t, torch.randn(400, 200, generator=gen)], 1)
    mean, std = x.mean(0), x.std(0)
    weak = logistic_fit((x - mean) / std, y, 3, 1e-6)
    overfitted = float((predict((t - mean) / std, weak) == u).double().mean())
    assert linear_probe(x, y, t, u) >= overfitted - 0.02
    # Labels of the test set do not change the fit: permuting them changes the score only.
    assert linear_probe(x, y, t, u) == linear_probe(x, y, t.flip(0), u.flip(0))


def test_scale_and_dead_features_do_not_matter():
    (x, y), (t, u) = data(), data(seed=1)
    base = linear_probe(x, y, t, u)
    wide = [torch.cat([part * 1e4 + 3, torch.full((len(part), 2), 5.0)], 1) for part in (x, t)]
    assert linear_probe(wide[0], y, wide[1], u) == pytest.approx(base, abs=0.011)


def test_labels_need_not_be_contiguous_and_unseen_classes_are_wrong():
    (x, y), (t, u) = data(), data(seed=1)
    base = linear_probe(x, y, t, u)
    assert linear_probe(x, 100 - 7 * y, t, 100 - 7 * u) == pytest.approx(base, abs=0.011)
    seen = y < 2
    score = linear_probe(x[seen], y[seen], t, u)
    assert score <= float((u < 2).double().mean())
    assert linear_probe(x[seen], y[seen], t[u == 2], u[u == 2]) == 0


def test_measurement_interval_and_majority_baseline():
    (x, y), (t, u) = data(), data(seed=1)
    m = METRICS["linear_probe"].measure(x, y, t, u, stamp=Stamp("t", 300))
    assert m.interval[0] < m.value < m.interval[1]
    assert m.baseline == pytest.approx(float((u == y.mode().values).double().mean()))


def test_pca_control_spans_the_leading_axes():
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=gen) @ torch.randn(3, 30, generator=gen)
    before = torch.random.get_rng_state()
    a, b = pca_features(x[:150], x[150:], 3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (a.shape, b.shape) == ((150, 3), (50, 3))
    centred = x[150:] - x[:150].mean(0)
    assert float(b.square().sum()) == pytest.approx(float(centred.square().sum()), rel=1e-4)


def test_edges():
    (x, y), (t, u) = data(30), data(20, seed=1)
    with pytest.raises(UserError, match="at least 10 training samples, got 9"):
        linear_probe(x[:9], y[:9], t, u)
    with pytest.raises(UserError, match="train hold NaN"):
        linear_probe(x * torch.nan, y, t, u)
    with pytest.raises(UserError, match="constant"):
        ridge_probe(torch.ones(30, 4), y, torch.ones(20, 4), u)
    with pytest.raises(UserError, match="single class"):
        linear_probe(x, torch.zeros_like(y), t, u)
    with pytest.raises(UserError, match="train is 6 wide and test 5"):
        linear_probe(x, y, t[:, :5], u)
    with pytest.raises(UserError, match="19 test_labels for 20"):
        linear_probe(x, y, t, u[:19])
