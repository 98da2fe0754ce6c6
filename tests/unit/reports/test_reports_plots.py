"""Pictures: right format, right content where it can be read, same bytes for same content."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import reports
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.reports import plots
from latentsmith.reports.card_figures import card_figures


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(figure.data)).convert("RGB")).astype(float) / 255


def test_curves_are_svg_with_their_labels():
    logs = {"one": reports.log(), "two": reports.log(0.3)}
    figure = plots.training_curves(logs, caption="c")
    assert figure is not None and figure.media == "image/svg+xml"
    text = figure.data.decode()
    for word in ("validation loss", "train loss", "validation psnr", "one", "two", "samples"):
        assert f">{word}<" in text
    again = plots.training_curves(logs, caption="c")
    assert again is not None and again.data == figure.data


def test_training_curves_leave_out_gaps_and_single_points():
    log = [
        {"kind": "train", "samples": 1, "loss": 1.0, "bad": None, "once": 3.0},
        {"kind": "train", "samples": 2, "loss": 0.5, "bad": None},
    ]
    figure = plots.training_curves({"r": log}, caption="c")
    assert figure is not None
    text = figure.data.decode()
    assert ">train loss<" in text and "bad" not in text and "once" not in text
    assert plots.training_curves({"r": []}, caption="c") is None
    assert plots.training_curves({}, caption="c") is None


def test_long_curves_are_thinned_without_moving_their_mean():
    x = np.arange(10_001)
    y = np.random.default_rng(0).normal(size=10_001)
    thin_x, thin_y = plots._thin(x, y)
    assert len(thin_x) <= 400
    assert abs(thin_y.mean() - y.mean()) < 1e-3 and abs(thin_x.mean() - x.mean()) < 30
    big = {"p": {"r": (x.tolist(), y.tolist())}}
    assert len(plots.curves(big, caption="c").data) < 60_000


def test_image_grid_shows_the_pictures_in_order():
    images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, 28, 28)
    figure = plots.image_grid([("row", images)], caption="c", alt="a")
    assert figure.media == "image/png"
    line = pixels(figure)[pixels(figure).shape[0] // 2].mean(-1)
    runs = [line[i] for i in range(1, len(line)) if abs(line[i] - line[i - 1]) < 1e-9]
    order = [v for i, v in enumerate(runs) if i == 0 or abs(v - runs[i - 1]) > 0.2]
    seen = [round(v, 1) for v in order if v < 0.95]
    assert seen[-2:] == [0.0, 0.5]  # the label's ink may come first; white is last


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 256)])
def test_image_grid_takes_any_images(channels, size):
    rows = [
        ("a", torch.rand(4, channels, size, size)),
        ("b", 2 * torch.rand(2, channels, size, size)),
    ]
    figure = plots.image_grid(rows, caption="c", alt="a", heads=["w", "x", "y", "z"])
    assert figure.width is not None and len(figure.data) < 1_500_000


def test_scatter_prints_the_given_r_and_stays_small():
    figure = plots.distance_scatter([reports.distances(0), reports.distances(1)], caption="c")
    assert "baseline r = 0.462; regularized r = 0.847" in figure.alt
    assert figure.media == "image/png" and len(figure.data) < 500_000


def test_tradeoff_survives_missing_intervals_and_lower_is_better():
    def point(name, gain, cost):
        stamp = Stamp("d", 1)
        return plots.TradePoint(name, Measurement("g", gain, stamp, (gain, gain + 1), True),
                                Measurement("lpips", cost, stamp, None, False))  # fmt: skip

    points = [point("0.1", 0.5, 0.1), point("1", 0.9, 0.2)]
    figure = plots.tradeoff(points, caption="c", gain_label="r", cost_label="LPIPS", gain_bar=0.8,
                            cost_bar=0.15, baseline=point("base", 0.4, 0.09))  # fmt: skip
    text = figure.data.decode()
    for word in ("0.1", "1", "base", "target 0.8", "LPIPS"):
        assert f">{word}<" in text


def test_a_baseline_that_is_one_of_the_points_is_drawn_once():
    p = plots.TradePoint("0", *[reports.arm()[k] for k in (reports.PAIR, "psnr")])
    base = plots.TradePoint("baseline", p.gain, p.cost)
    figure = plots.tradeoff([p], caption="", gain_label="r", cost_label="p", baseline=base)
    assert ">baseline<" not in figure.data.decode()


def test_bars_and_spectrum():
    arms = {"a": [("psnr", reports.arm()["psnr"])], "b": [("ssim", reports.arm()["ssim"])]}
    text = plots.bars(arms, caption="c").data.decode()
    assert all(f">{word}<" in text for word in ("psnr", "ssim", "a", "b"))
    spectrum = plots.spectrum({"x": torch.arange(5000, 0, -1.0)}, caption="c")
    assert len(spectrum.data) < 80_000


def test_card_figures_by_group():
    tensors = {
        "recon": torch.rand(2, 3, 1, 8, 8),
        "pairs_pca": torch.rand(2, 100),
        "pairs_unmeasured": torch.rand(2, 100),
        "path_speeds_lerp": torch.rand(4, 8),
        "path_grid_lerp": torch.rand(2, 5, 1, 8, 8),
        "midpoints": torch.rand(12, 1, 8, 8),
        "channel_moments": torch.rand(2, 4),
        "unknown": torch.rand(3),
    }
    r = Measurement("pairdist_pearson_pca", 0.5, Stamp("d", 9), metric="pairdist_pearson")
    figures = card_figures(tensors, [r])
    assert {k: len(v) for k, v in figures.items()} == {
        "reconstruction": 1, "geometry": 1, "smoothness": 3, "statistics": 1,
    }  # fmt: skip
    assert card_figures({}, []) == {}


def test_plotting_leaves_the_users_style_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.spectrum({"x": torch.ones(3)}, caption="c")
    assert dict(mpl.rcParams) == before
