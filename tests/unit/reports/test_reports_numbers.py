"""How numbers are printed, and what metrics are called."""

import math

import pytest

from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.metrics.registry import METRICS
from latentsmith.reports.glossary import TERMS, explain, is_distance_correlation, label, meaning
from latentsmith.reports.marks import Marks
from latentsmith.reports.numbers import (
    chance_text,
    interval_text,
    number_text,
    stamp_text,
    value_text,
)

STAMP = Stamp("d/val", 10)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.83449, "", "0.834"),
        (24.914, "dB", "24.91 dB"),
        (85.44, "%", "85.4 %"),
        (31.4, "", "31.40"),
        (1234.56, "", "1,234.6"),
        (0.0, "", "0.000"),
        (-0.25, "", "−0.250"),
        (1.23e-5, "", "1.2e−5"),
        (12345, "", "12,345"),
        (True, "", "yes"),
        (math.nan, "dB", "NaN dB"),
        (-math.inf, "", "−∞"),
    ],
)
def test_number_text(value, unit, text):
    assert number_text(value, unit) == text


def test_interval_and_chance_have_the_value_s_decimals():
    m = Measurement("psnr", 9.99, STAMP, (9.5, 10.5), True, baseline=0.0004)
    assert (value_text(m), interval_text(m), chance_text(m)) == (
        "9.990",
        "[9.500, 10.500]",
        "0.000",
    )
    tiny = Measurement("kid", 4.1e-4, STAMP, (3.6e-4, 1.2e-3))
    assert interval_text(tiny) == "[3.6e−4, 1.2e−3]"
    assert interval_text(Measurement("psnr", 1.0, STAMP)) == ""
    assert interval_text(Measurement("psnr", math.nan, STAMP, (0.5, math.nan))) == "[5.0e−1, NaN]"


def test_stamp_text_holds_every_field():
    stamp = Stamp("mnist/val", 2000, "dinov2", 3, "euler", 50, True, {"eps": 0.1}, {"torch": "9"})
    text = stamp_text(stamp)
    for part in ("mnist/val", "n = 2,000", "dinov2", "seed 3", "sampler euler", "50 steps",
                 "EMA weights", "eps 0.1", "torch 9"):  # fmt: skip
        assert part in text


def test_marks_number_distinct_protocols_in_order():
    marks = Marks()
    a, b = Stamp("a", 1, versions={"torch": "1", "x": "1"}), Stamp("b", 1, versions={"torch": "1"})
    same = Stamp("a", 1, versions={"x": "1", "torch": "1"})
    assert [marks.number(s) for s in (a, b, same)] == [1, 2, 1]
    assert [s.data for _, s in marks.rows()] == ["a", "b"]
    assert marks.shared_versions() == {"torch": "1"}


@pytest.mark.parametrize(
    ("name", "metric", "space", "text"),
    [
        ("psnr", "psnr", "", "PSNR\u00a0↑"),
        ("pairdist_pearson_dinov2", "pairdist_pearson", "dinov2",
         "Distance correlation (Pearson), dinov2\u00a0↑"),
        ("path_length_lerp_pixels", "path_length", "pixels",
         "Perceptual path length, lerp, pixels\u00a0↑"),
        ("path_length_variance_lerp", "", "", "Path speed variance, lerp\u00a0↑"),
        ("lpips", "perceptual_distance", "lpips", "LPIPS\u00a0↑"),
        ("lpips_vgg", "perceptual_distance", "vgg", "lpips_vgg\u00a0↑"),
        ("something_new", "", "", "something_new\u00a0↑"),
    ],
)  # fmt: skip
def test_label(name, metric, space, text):
    m = Measurement(name, 1.0, Stamp("d", 1, space), higher_is_better=True, metric=metric)
    assert label(m) == text


def test_every_registered_metric_has_a_label_a_group_and_a_meaning():
    for metric in METRICS:
        m = Measurement(metric.name, 1.0, STAMP, metric=metric.name)
        assert metric.name in TERMS, f"give {metric.name} a label in reports/glossary.py"
        assert explain(m)[0].group != "other"
        assert meaning(m).endswith(".")


def test_meaning_of_a_hand_made_measurement_and_of_the_unknown():
    assert "decoded" in meaning(Measurement("path_length_lerp_pixels", 1.0, STAMP))
    assert meaning(Measurement("nobody_knows", 1.0, STAMP)) == ""


def test_szekely_is_not_called_a_distance_correlation_of_ours():
    assert is_distance_correlation(Measurement("pairdist_spearman_x", 0.5, STAMP))
    assert not is_distance_correlation(Measurement("dcor_u_x", 0.5, STAMP))
