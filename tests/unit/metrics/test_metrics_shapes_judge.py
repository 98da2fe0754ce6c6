"""The judge of captioned shapes: what it is taught, that it learns, how it is kept and refused."""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.fresh import Started
from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.shapes.factors import factor_tensors
from latentsmith.errors import UserError
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.shapes_card import measure_attributes, measure_edits
from latentsmith.metrics.shapes_judge import Judge, JudgeConfig, judge, training
from latentsmith.metrics.shapes_judge.judge import judge_path
from latentsmith.metrics.shapes_judge.network import JudgeNet, Scores
from latentsmith.metrics.shapes_judge.training import JudgeTask, Renders, draw, spoil
from latentsmith.training.batches import rows
from latentsmith.training.loop import fit
from latentsmith.training.task import StepContext

SMALL = JudgeConfig(width=12, samples=4096, batch_size=64, test_count=512, minimum=0.0)
TINY = replace(SMALL, width=4, samples=256, test_count=64)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The cache folder with `SMALL`'s judge, and the judge."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, Judge.load_or_train(SMALL, 64, cache)


def test_targets_are_the_factors():
    data = SMALL.data(64, "train")
    batch = draw(data, torch.arange(100))
    factors = factor_tensors(data.scenes(range(100)))
    for n, table in enumerate(batch["table"].tolist()):
        want = {}
        for slot in (0, 1):
            if int(factors["shape"][n, slot]) >= 0:
                cell = 3 * int(factors["row"][n, slot]) + int(factors["col"][n, slot])
                named = [int(factors[k][n, slot]) for k in ("shape", "color", "size")]
                want[cell] = [*named, cell]
        assert table[0] == [int(factors["background"][n]), int(factors["count"][n]), -1, -1]
        assert table[1:] == [want.get(cell, [-1] * 4) for cell in range(9)]
    assert torch.equal(batch["image"], data.gather(torch.arange(100))["image"] / 255)


def test_scores_become_the_reading_they_stand_for():
    table = draw(SMALL.data(64, "val"), torch.arange(50))["table"]
    objects = table[:, 1:]
    sure = [
        10.0 * torch.nn.functional.one_hot(objects[:, :, k].clamp_min(0), count)
        for k, count in enumerate((8, 8, 3))
    ]
    presence = torch.where(objects[:, :, 0] >= 0, 5.0, -5.0)
    background = 10.0 * torch.nn.functional.one_hot(table[:, 0, 0], 4)
    scores = Scores(presence, tuple(sure), background)
    assert torch.equal(scores.tables(), table)
    losses = training._losses(scores, table)
    assert losses["loss"] < 0.1
    wrong = training._losses(scores._replace(presence=-presence), table)
    assert wrong["presence"] > 4 and wrong["shape"] == losses["shape"]
    turned = training._losses(scores._replace(attributes=(sure[0].roll(1, 2), *sure[1:])), table)
    assert turned["shape"] > 4 and turned["color"] == losses["color"]


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_it_reads_any_resolution(resolution):
    net = JudgeNet(4)
    found = net(torch.rand(3, 3, resolution, resolution)).tables()
    assert found.shape == (3, 10, 4) and found.dtype == torch.int64
    data = SMALL.data(resolution, "train")
    assert draw(data, torch.arange(2))["image"].shape == (2, 3, resolution, resolution)


def test_its_pictures_are_its_own():
    mine, test = SMALL.data(64, "train"), SMALL.data(64, "val")
    others = ShapesConfig(train_count=SMALL.samples).build("train", Path())
    shown = [draw(d, torch.arange(64))["image"] for d in (mine, test, others)]
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert not (shown[a][:, None] == shown[b][None]).flatten(2).all(2).any()


def test_batches_are_a_function_of_the_position():
    source = Renders(TINY.data(64, "train"), 8)
    first, second = (batch for batch, _ in zip(source.iterate(16), range(2), strict=False))
    assert second["index"].tolist() == list(range(24, 32))
    again = next(source.iterate(24))
    assert torch.equal(again["image"], second["image"])
    assert not torch.equal(first["table"], second["table"])
    assert len(rows(first, slice(0, 2))["table"]) == 2


def test_spoiling_stays_in_range_repeats_and_can_be_off():
    images = draw(TINY.data(64, "train"), torch.arange(40))["image"]

    def spoiled(config):
        return spoil(images, config, torch.Generator().manual_seed(0))

    one = spoiled(SMALL)
    assert torch.equal(one, spoiled(SMALL)) and not torch.equal(one, images)
    assert one.min() >= 0 and one.max() <= 1 and (one - images).abs().mean() < 0.06
    assert torch.equal(spoiled(replace(SMALL, blur=0, noise=0, brightness=0)), images)
    soft = spoiled(replace(SMALL, noise=0, brightness=0))
    changed = (soft != images).flatten(1).any(1).double().mean()
    assert 0.3 < changed < 0.7
    for part in ("noise", "brightness"):
        only = {"blur": 0, "noise": 0, "brightness": 0} | {part: 0.04}
        assert (spoiled(replace(SMALL, **only)) != images).flatten(1).any(1).all()


def test_seconds_of_training_are_better_than_chance(trained):
    _, small = trained
    told = small.record["accuracy"]["clean"]
    assert told["n"] == 512
    assert told["position"] > 0.8 and told["count"] > 0.8 and told["background"] > 0.9
    assert told["color"] > 0.3  # chance 1/8, 1/64 with two
    spoiled = small.record["accuracy"]["spoiled"]
    assert spoiled["position"] > 0.7 and spoiled != told


def test_the_record_says_what_reading_gives(trained):
    _, small = trained
    data = SMALL.data(64, "val")
    batch = draw(data, torch.arange(512))
    right = (small.read(batch["image"]) == batch["table"]).flatten(1).all(1)
    assert small.joint_accuracy == float(right.double().mean())
    again = training.accuracy(small.net, SMALL, 64, spoiled=False)
    assert again == small.record["accuracy"]["clean"]


def test_validation_is_of_clean_pictures_and_training_of_spoiled_ones(trained):
    _, small = trained
    task = JudgeTask(SMALL)
    task.net.load_state_dict(small.net.state_dict())
    task.eval()
    batch = draw(SMALL.data(64, "val"), torch.arange(512))
    ctx = StepContext(0, 1, 0)
    with torch.no_grad():
        assert float(task.validate(batch, ctx)["joint"]) == pytest.approx(small.joint_accuracy)
        clean, spoiled = task.validate(batch, ctx)["loss"], task("judge", batch, ctx)["loss"]
    assert clean != spoiled


def test_what_is_kept_is_what_was_trained(trained, tmp_path):
    cache, small = trained
    images = torch.rand(20, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for again in (
        Judge.load(judge_path(SMALL, 64, cache), SMALL, 64),
        Judge.load(small.save(tmp_path / "copy"), SMALL, 64),
    ):
        assert torch.equal(again.read(images), small.read(images))
        assert (again.name, again.digest()) == (small.name, small.digest())
        assert again.record["accuracy"] == small.record["accuracy"]
    log = (judge_path(SMALL, 64, cache) / "metrics.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["kind"] == "validation"
    assert [p.name for p in (cache / "judges").glob(".*.training")] == []


def test_it_is_trained_once(trained, monkeypatch):
    cache, small = trained

    def never(*a, **k):
        raise AssertionError("trained again")

    monkeypatch.setattr(judge, "fit", never)
    assert Judge.load_or_train(SMALL, 64, cache).digest() == small.digest()
    # the minimum decides whether it may judge, not what it is
    with pytest.raises(UserError, match=rf"only {small.joint_accuracy:.4f} of 512 .* 0\.99"):
        Judge.load_or_train(replace(SMALL, minimum=0.99), 64, cache)
    with pytest.raises(AssertionError, match="trained again"):
        Judge.load_or_train(replace(SMALL, seed=1), 64, cache)
    with pytest.raises(AssertionError, match="trained again"):
        Judge.load_or_train(SMALL, 32, cache)


def test_the_default_minimum():
    assert JudgeConfig().minimum == 0.99
    known = {"clean": {"joint": 0.9899, "n": 100}}
    weak = Judge(JudgeNet(4), {"made": {"resolution": 64}, "accuracy": known})
    with pytest.raises(UserError, match=r"64 x 64 .* only 0\.9899 of 100"):
        weak.check(0.99)
    assert weak.check(0.98) is weak


def test_other_settings_and_damage_are_refused(trained, tmp_path):
    _, small = trained
    folder = small.save(tmp_path / "j")
    with pytest.raises(UserError, match=r"made otherwise: .*noise 0\.04, wanted 0\.1"):
        Judge.load(folder, replace(SMALL, noise=0.1), 64)
    with pytest.raises(UserError, match="resolution 64, wanted 32"):
        Judge.load(folder, SMALL, 32)
    record = json.loads((folder / "judge.json").read_text())
    record["accuracy"]["clean"]["joint"] = 1.0
    (folder / "judge.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="damaged"):
        Judge.load(folder, SMALL, 64)
    small.save(folder)
    weights = bytearray((folder / "judge.safetensors").read_bytes())
    weights[-100] ^= 1
    (folder / "judge.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="damaged"):
        Judge.load(folder, SMALL, 64)
    (folder / "judge.safetensors").write_bytes(weights[:1000])
    with pytest.raises(UserError, match="cannot load the judge"):
        Judge.load(folder, SMALL, 64)
    with pytest.raises(UserError, match="cannot load the judge"):
        Judge.load(tmp_path / "nowhere", SMALL, 64)
    for text in ("{}", "[]", "no json"):
        small.save(folder)
        (folder / "judge.json").write_text(text)
        with pytest.raises(UserError, match="cannot load the judge"):
            Judge.load(folder, SMALL, 64)


def test_a_damaged_judge_is_made_anew(tmp_path, caplog):
    first = Judge.load_or_train(TINY, 64, tmp_path)
    path = judge_path(TINY, 64, tmp_path)
    (path / "judge.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        again = Judge.load_or_train(TINY, 64, tmp_path)
    assert "training again" in caplog.text
    assert again.digest() == first.digest()  # and a training repeats


def test_an_interrupted_training_goes_on(tmp_path):
    whole = Judge.load_or_train(TINY, 64, tmp_path / "whole")
    path = judge_path(TINY, 64, tmp_path / "cut")
    fit(
        JudgeTask(TINY),
        Renders(TINY.data(64, "train"), TINY.batch_size),
        TINY.train(),
        path.with_name(f".{path.name}.training"),
        val_batch=judge._validation(TINY, 64),
        identity={"judge": TINY.identity(64)},
        until=128,
    )
    resumed = Judge.load_or_train(TINY, 64, tmp_path / "cut")
    assert resumed.digest() == whole.digest()
    seen = (path / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["samples"] for line in seen} >= {0, 128, 256}


def test_of_two_processes_one_trains(tmp_path):
    code = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from latentsmith.metrics.shapes_judge import Judge, JudgeConfig\n"
        "c = JudgeConfig(width=4, samples=256, batch_size=64, test_count=64, minimum=0)\n"
        "print(Judge.load_or_train(c, 64).digest())"
    )
    env = {**os.environ, "LATENTSMITH_CACHE": str(tmp_path)}
    one, other = [p.wait() for p in [Started(("-c", code), tmp_path, env) for _ in range(2)]]
    assert [one.returncode, other.returncode] == [0, 0], one.stderr + other.stderr
    assert one.stdout == other.stdout
    assert (one.stderr + other.stderr).count("learning to read") == 1


def test_it_is_not_trained_inside_a_run_of_several(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "world_size", lambda: 2)
    with pytest.raises(UserError, match="by a single process"):
        Judge.load_or_train(TINY, 64, tmp_path)


def test_training_leaves_the_global_random_stream_alone():
    state = torch.random.get_rng_state()
    JudgeTask(TINY)
    assert torch.equal(state, torch.random.get_rng_state())


def test_refusals(trained):
    _, small = trained
    for images, told in [
        (torch.rand(2, 3, 32, 32), r"\[N, 3, 64, 64\], got \[2, 3, 32, 32\]"),
        (torch.rand(3, 64, 64), "reads images"),
        (torch.rand(0, 3, 64, 64), "at least 1 image"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "divide integers by 255"),
        (torch.full((1, 3, 64, 64), torch.nan), "NaN"),
        (2 * torch.rand(1, 3, 64, 64) - 1, r"must lie in \[0, 1\], these reach from -"),
    ]:
        with pytest.raises(UserError, match=told):
            small.read(images)
    with pytest.raises(ValueError, match="less than one batch"):
        JudgeConfig(samples=10)


def test_cards_of_real_pictures(trained):
    """The small judge's card of renders: what it reads right itself, and its name in the stamp."""
    _, small = trained
    data = ShapesConfig(train_count=64, edits=True, captions="full").build("train", Path())
    batch, index = data.gather(torch.arange(64)), torch.arange(64)
    images = batch["image"] / 255
    stamp = Stamp(data.name, 0)
    card = measure_attributes(small, images, batch["factors"], batch["mentions"], stamp=stamp)
    joint = card.get("attribute_accuracy_joint")
    assert joint.stamp.space == small.name and joint.stamp.detail["judge_n"] == 512
    assert joint.stamp.detail["judge_joint"] == small.joint_accuracy
    position = card.get("attribute_accuracy_position")
    assert position.value > 0.6 and position.baseline < 0.3
    edits = measure_edits(small, batch["target"] / 255, data.edit_triples(index), stamp=stamp)
    assert edits.get("edit_accuracy_kept").value > 0.5


@pytest.mark.slow
def test_the_default_judge_reads_99_percent(tmp_path):
    """Minutes of one core; the numbers of a run are in docs/results/shapes-judge.md."""
    told = Judge.load_or_train(JudgeConfig(), 64, tmp_path).record["accuracy"]
    assert told["clean"]["joint"] >= 0.99 and told["clean"]["n"] == 10_000
    assert told["spoiled"]["joint"] >= 0.98
