"""Every recipe's plan: its stages are the recipe's, its networks those that are trained."""

import pytest

from latentsmith.config.compose import compose
from latentsmith.errors import UserError
from latentsmith.planning.count import count_pass, count_step
from latentsmith.training.config import TrainConfig

RECIPES = ["mmreg", "urepa", "psvae", "field", "textlatent"]


def setting(config, path: str):
    for name in path.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("recipe", RECIPES)
def test_stages_settings_and_stores(recipe):
    config = compose(recipe, ["scale=smoke"])
    plan, names = config.plan(), [stage.name for stage in config.stages()]
    assert plan.trainings and plan.stores and plan.facts
    for stage in plan.trainings:
        assert any(n == stage.name or n.startswith(stage.name + "-") for n in names), stage.name
        given = setting(config, stage.setting)
        assert isinstance(given, TrainConfig) and given == stage.train
    last = plan.trainings[-1]
    count = count_step(last, [2])
    assert count.forward > 0 and count.backward > 0 and count.gradients > 0
    assert set(last.parts) <= {part.label for part in count.parts}
    for work in plan.passes[:1]:
        assert count_pass(work).flops > 0


MANY = "loss=vavae encoder=efficientnet_lite0 objective.adversarial={weight:0.1,layers:1}"


@pytest.mark.parametrize(
    ("recipe", "words", "stage"),
    [
        ("mmreg", MANY.split(), "regularized"),
        ("psvae", ["compare=[vae]"], "dit-vae"),
        ("textlatent", ["learn.cycles.l2t2l.steps=1"], "cycles"),
    ],
)
def test_variants_can_be_counted(recipe, words, stage):
    plan = compose(recipe, ["scale=smoke", *words]).plan()
    found = next(s for s in plan.trainings if s.name == stage)
    assert count_step(found, [2], micros=2).flops > 0


def test_online_references_cost_and_cached_ones_do_not():
    words = ["scale=smoke", "encoder=efficientnet_lite0", "encoder.resolution=64"]
    stages = [
        compose("mmreg", [*words, f"transform.crop={crop}"]).plan().trainings
        for crop in ("center", "random")
    ]
    cached, online = (
        count_step(next(s for s in found if s.name == "regularized"), [2]) for found in stages
    )
    assert online.forward - cached.forward > 1e7
    assert online.parts[-2].label == "references" and online.parts[-2].frozen == 3_350_000


def test_a_recipe_that_trains_nothing_says_so():
    with pytest.raises(UserError, match="the recipe cache trains nothing"):
        compose("cache", ["autoencoder.source=x", "data=shapes"]).plan()


@pytest.mark.slow
def test_sd15_as_published():
    """859,520,964 frozen, LoRA 155,648, head 2,360,320; 803 GFLOP forward; no more than 110 GB."""
    stage = compose("urepa", ["scale=paper"]).plan().trainings[-1]
    count = count_step(stage, [8, 128])
    unet, head = count.parts[:2]
    assert (unet.frozen, unet.trainable, head.trainable) == (859_520_964, 155_648, 2_360_320)
    assert unet.forward == pytest.approx(803.3e9, rel=1e-3)
    assert unet.backward == pytest.approx(623.1e9, rel=1e-3)
    assert 50e9 < count.peak(128) < 80e9
    mid = count.peak(8)
    assert count.peak(64) == pytest.approx((count.peak(128) - mid) * 56 / 120 + mid, rel=1e-6)
