"""What every metric in the list promises, whatever it measures."""

import json
import math

import pytest
import torch
from torch.utils._pytree import tree_map

from helpers.metric_inputs import N, metric_inputs
from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Measurement, Stamp

ALL = METRICS.names()
PAIRS = {
    "reference": "latents", "recon": "images", "features_ref": "features", "tokens_ref": "tokens",
    "pixel_labels": "predicted_labels", "asked_scenes": "found_scenes", "edits": "edits_done",
    "field_ref": "field", "ids_ref": "ids",
}  # fmt: skip
"""Second input → the first that equals it when the match is perfect."""
BY_ORDER = {
    "triplet_order", "linear_probe", "ridge_probe",
    "path_length", "path_length_variance", "path_length_cv", "fd_infinity",
}  # fmt: skip
"""Metrics that draw their triplets, splits, paths or subsets by position."""


@pytest.mark.parametrize("name", ALL)
def test_says_what_it_is(name):
    entry = METRICS[name]
    assert entry.help and "\n" not in entry.help and len(entry.help) < 100
    assert not entry.help.endswith(".")
    assert entry.compute.__doc__, "a metric's definition and source belong in its docstring"
    json.dumps(entry.options)


@pytest.mark.parametrize("name", ALL)
def test_gives_a_finite_measurement_with_its_protocol(name):
    inputs = metric_inputs(name)
    m = METRICS[name].measure(*inputs, stamp=Stamp("d/val", N), suffix="space", resamples=20)
    assert isinstance(m, Measurement)
    assert (m.name, m.metric) == (f"{name}_space", name)
    assert math.isfinite(m.value)
    assert m.value == pytest.approx(METRICS[name](*inputs), rel=1e-9)
    assert m.higher_is_better == METRICS[name].higher_is_better
    assert m.stamp.detail.items() >= METRICS[name].options.items()
    if m.interval is not None:
        assert m.interval[0] <= m.interval[1]
        assert m.stamp.detail["resamples"] == 20
    json.dumps(m.to_json(), allow_nan=False)


@pytest.mark.parametrize("name", ALL)
def test_tensors_may_be_on_a_gpu(name, gpu):
    inputs = metric_inputs(name)
    expected = METRICS[name](*inputs)
    there = tree_map(lambda x: x.to(gpu) if isinstance(x, torch.Tensor) else x, inputs)
    m = METRICS[name].measure(*there, stamp=Stamp("d/val", N), resamples=3)
    assert m.value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_repeats_exactly(name):
    first, second = (
        METRICS[name].measure(*metric_inputs(name), stamp=Stamp("d", N), resamples=10).to_json()
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("name", ALL)
def test_leaves_the_global_random_stream_and_its_inputs_alone(name):
    inputs = metric_inputs(name)
    copies = [x.clone() if isinstance(x, torch.Tensor) else x for x in inputs]
    state = torch.random.get_rng_state()
    METRICS[name].measure(*inputs, stamp=Stamp("d", N), resamples=5)
    assert torch.equal(state, torch.random.get_rng_state())
    for before, after in zip(copies, inputs, strict=True):
        if isinstance(before, torch.Tensor):
            assert torch.equal(before, after)


@pytest.mark.parametrize("name", [m.name for m in METRICS if m.best is not None])
def test_a_perfect_match_has_the_best_value(name):
    twin = {key: (lambda world, first=first: world[first]) for key, first in PAIRS.items()}
    assert METRICS[name](*metric_inputs(name, **twin)) == pytest.approx(
        METRICS[name].best, abs=1e-6
    )
    # and an imperfect one has not
    assert METRICS[name](*metric_inputs(name)) != pytest.approx(METRICS[name].best, abs=1e-4)


@pytest.mark.parametrize("name", [n for n in ALL if n not in BY_ORDER])
def test_the_order_of_samples_does_not_matter(name):
    inputs = metric_inputs(name)
    order = torch.randperm(
        len(next(x for x in inputs if isinstance(x, torch.Tensor))),
        generator=torch.Generator().manual_seed(0),
    )
    moved = [x[order] if isinstance(x, torch.Tensor) else x for x in inputs]
    assert METRICS[name](*moved) == pytest.approx(METRICS[name](*inputs), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_nan_is_refused_by_name(name):
    """Each floating-point input in turn."""
    for position in range(len(METRICS[name].inputs)):
        inputs = metric_inputs(name)
        given = inputs[position]
        if not isinstance(given, torch.Tensor) or not given.is_floating_point():
            continue
        broken = given.clone()
        broken.view(len(broken), -1)[2, 1] = torch.nan
        inputs[position] = broken
        with pytest.raises(UserError, match=r"NaN.*sample 2"):
            METRICS[name](*inputs)


@pytest.mark.parametrize("name", ALL)
def test_one_sample_is_measured_or_refused_in_words(name):
    """Never a NaN, never an exception out of torch."""
    inputs = [x[:1] if isinstance(x, torch.Tensor) else x for x in metric_inputs(name)]
    try:
        value = METRICS[name](*inputs)
    except UserError as refusal:
        assert "at least" in str(refusal) or "more than" in str(refusal)
    else:
        assert math.isfinite(value)


def test_an_unknown_metric_names_its_nearest():
    with pytest.raises(UserError, match="'pairdist_pearson'"):
        METRICS["pairdist_pearsons"]
