"""What the field report concludes from given numbers, without a run."""

from typing import cast

import pytest
import torch

from latentsmith.config.compose import compose
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.recipes.field import report
from latentsmith.recipes.field.autoencoders import MAIN
from latentsmith.recipes.field.config import FieldConfig

CFG = cast(FieldConfig, compose("field", ["scale=laptop"]))
SQUARES = 39


def card(level: float, **figures: torch.Tensor) -> LatentCard:
    """PSNR of ``level`` dB at every side, and agreement; draws are paired but for a hundredth."""
    rng = torch.Generator().manual_seed(int(1000 * level))
    shared = torch.randn(200, generator=torch.Generator().manual_seed(0))
    found = []
    for name in ("psnr_32", "psnr_64", "psnr_96", "agreement_32_96_boxes"):
        draws = level + shared + 0.01 * torch.randn(200, generator=rng)
        found.append(
            Measurement(
                name, level, Stamp("d/val", SQUARES, seed=0), (level - 2, level + 2), True, "dB",
                metric=name.split("_")[0], draws=draws,
            )
        )  # fmt: skip
    return LatentCard(found, figures=dict(figures))


def cards(own: float = 27.0, flow: float = 13.0) -> dict[str, LatentCard]:
    levels = {"linear": 26.0, "thin_plate": 27.5, "kriging": 27.2, MAIN: own, "mamba_flow": flow}
    return {name: card(level) for name, level in levels.items()}


def verdicts(found: dict[str, LatentCard]) -> dict[str, str]:
    return {target.name: target.verdict for target in report.targets(CFG, found)}


def test_the_margins_over_the_flow_are_the_sources():
    names = [f"PSNR at {side} above the RGB flow's" for side in (64, 96)]
    assert [verdicts(cards(27.0, 24.5))[name] for name in names] == ["go", "no-go"]  # + 2 and 3 dB
    assert [verdicts(cards(27.0, 23.5))[name] for name in names] == ["go", "go"]
    shown = next(t for t in report.targets(CFG, cards(27.0, 24.5)) if t.name == names[0])
    assert shown.measurement is not None and shown.measurement.value == pytest.approx(2.5)


def test_the_best_without_learning_is_named():
    found = verdicts(cards(27.3))
    name = "PSNR at 64 beyond thin-plate splines, the best without learning"
    assert found["PSNR at 64 beyond linear"] == "go" and found[name] == "no-go"
    assert verdicts(cards(27.6))[name] == "go"


def test_differences_are_paired():
    """Each value alone is known to 2 dB here, their difference to a hundredth."""
    gain = report.difference(cards(), "kriging", "psnr_64")
    assert gain is not None and gain.value == pytest.approx(-0.2)
    low, high = gain.interval or (0.0, 0.0)
    assert -0.3 < low < -0.2 < high < -0.1
    assert report.difference(cards(), "kriging", "psnr_128") is None


def test_given_points_are_shown_on_their_lattice(monkeypatch):
    rows = {}
    monkeypatch.setattr(
        report, "image_grid", lambda r, caption, alt: rows.update({caption: [n for n, _ in r]})
    )
    images = {name: torch.rand(2, 3, 8, 8) for name in ("given", "truth_32", "32", "truth_64")}
    report._pictures(CFG, {MAIN: card(27, **images)})
    own = "autoencoder, cross decoder"
    assert rows["Held-out fields at 32 x 32."] == ["given points", own, "truth"]
    assert rows["Held-out fields at 64 x 64."] == ["truth"]
