"""Statistics of parts, joined, are those of the whole."""

import math

import pytest
import torch

from latentsmith.stores import statistics
from latentsmith.stores.statistics import join, measure, not_finite


@pytest.mark.parametrize("content", ["latents", "tokens", "vectors", "text"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("chunk", [1, 100, 1 << 16])
def test_of_the_definition(monkeypatch, content, dtype, chunk):
    monkeypatch.setattr(statistics, "CHUNK", chunk)
    shape = (12,) if content == "vectors" else (3, 4)
    values = (torch.randn(50, *shape) * 3 + 1).to(dtype)
    values[7] = 0
    x = values.double()
    rows = x.reshape(50, 1, -1) if content in ("latents", "vectors") else x
    norms = rows.norm(dim=-1)
    want = {
        "count": x.numel(),
        "min": x.min(),
        "max": x.max(),
        "mean": x.mean(),
        "std": x.std(correction=0),
        "vectors": norms.numel(),
        "zeros": norms.numel() // 50,
        "norm_min": 0,
        "norm_max": norms.max(),
        "norm_mean": norms.mean(),
    }
    found = measure(values, content)
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert found[name] == pytest.approx(float(value), rel=1e-9, abs=1e-12), name
    parts = [measure(part, content) for part in values.split([1, 20, 29])]
    joined = join([*parts[:1], {}, *parts[1:]])
    assert joined == pytest.approx(found, rel=1e-9)


def test_nothing_has_no_statistics():
    assert join([]) == {} and join([{}, {}]) == {}
    assert measure(torch.empty(0, 3), "latents") == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("row", [0, 1, 4])
def test_what_is_not_finite_shows_in_range_wherever_it_is(monkeypatch, bad, row):
    monkeypatch.setattr(statistics, "CHUNK", 1)
    values = torch.ones(5, 2)
    values[row, 1] = bad
    found = measure(values, "latents")
    assert not found["max"] - found["min"] < math.inf
    assert not_finite(values).tolist() == [row]


def test_not_finite_takes_rows_of_any_shape():
    assert not_finite(torch.tensor([1.0, math.nan, 2.0])).tolist() == [1]
    assert not_finite(torch.ones(3, 2, 2)).tolist() == []
