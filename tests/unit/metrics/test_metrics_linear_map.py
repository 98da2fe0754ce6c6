"""The linear map to a teacher: against scikit-learn, streamed, and where it must refuse."""

import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from latentsmith.errors import UserError
from latentsmith.metrics.linear_map import LinearMap


def pairs(n=200, d=6, e=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=rng, dtype=torch.float64) + 3.0
    w = torch.randn(d, e, generator=rng, dtype=torch.float64)
    return x, x @ w + 0.3 * torch.randn(n, e, generator=rng, dtype=torch.float64) - 1.0


def fitted(x, y, l2=1e-3, parts=1):
    found = LinearMap(l2)
    for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
        found.add(a, b)
    return found


def test_without_penalty_it_is_least_squares():
    x, y = pairs()
    theirs = LinearRegression().fit(x.numpy(), y.numpy())
    ours = fitted(x, y, l2=0.0)(x)
    assert torch.allclose(ours, torch.from_numpy(theirs.predict(x.numpy())), atol=1e-9)


def test_on_standardized_features_it_is_ridge():
    x, y = pairs()
    x = (x - x.mean(0)) / x.std(0, unbiased=False)
    theirs = Ridge(alpha=0.5 * len(x)).fit(x.numpy(), y.numpy())
    ours = fitted(x, y, l2=0.5)(x)
    assert torch.allclose(ours, torch.from_numpy(theirs.predict(x.numpy())), atol=1e-9)


def test_the_penalty_does_not_depend_on_a_dimensions_unit():
    x, y = pairs()
    unit = torch.tensor([1.0, 10.0, 0.1, 1.0, 100.0, 1.0], dtype=torch.float64)
    assert torch.allclose(fitted(x, y, l2=0.5)(x), fitted(x * unit, y, l2=0.5)(x * unit))


def test_batches_make_no_difference():
    x, y = pairs()
    assert torch.allclose(fitted(x, y, parts=7)(x), fitted(x, y)(x), atol=1e-10)


def test_more_rows_after_a_look_are_taken_in():
    x, y = pairs()
    found = fitted(x[:50], y[:50])
    found(x)
    found.add(x[50:], y[50:])
    assert torch.allclose(found(x), fitted(x, y)(x), atol=1e-10)


def test_a_dimension_that_never_varies_is_borne():
    x, y = pairs()
    x[:, 2] = 5.0
    assert torch.allclose(fitted(x, y)(x), fitted(x[:, [0, 1, 3, 4, 5]], y)(x[:, [0, 1, 3, 4, 5]]))


def test_float32_rows_are_summed_in_float64():
    x, y = pairs()
    assert fitted(x.float() + 1e3, y.float())(x.float() + 1e3).dtype == torch.float64


def test_refusals():
    with pytest.raises(UserError, match="at least 2 rows"):
        LinearMap().weight()
    x, y = pairs()
    x[3, 1] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        fitted(x, y).weight()
