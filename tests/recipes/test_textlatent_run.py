"""The smoke run of textlatent, end to end, through the command line."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.explored import tabs_by_arm
from helpers.pages import assert_self_contained
from helpers.small_textlatent import small_words
from latentsmith.cli import main
from latentsmith.config.compose import compose
from latentsmith.config.run import Run
from latentsmith.config.sweeps import listed
from latentsmith.data.text.importer import ImportConfig
from latentsmith.data.text.tokens.base import content
from latentsmith.errors import UserError
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.card_file import load_card
from latentsmith.recipes.textlatent.config import TextLatentRecipe
from latentsmith.recipes.textlatent.inputs import Inputs
from latentsmith.recipes.textlatent.report import targets
from latentsmith.recipes.textlatent.yardstick import Yardstick
from latentsmith.sampling.text_latent.translator import Translator
from latentsmith.training.team import Team

ROW = "latent linear in the bag of all tokens"
STAGES = ["corpus", "base", "cycles", "autoregressive", "one_shot", "measure", "report"]


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """(cache, settings) of every run of this file."""
    folder = tmp_path_factory.mktemp("textlatent")
    encoder = folder / "encoder"
    encoder.mkdir()
    return folder / "cache", small_words(encoder)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, place):
    """A finished smoke run."""
    folder = tmp_path_factory.mktemp("textlatent-run") / "smoke"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTSMITH_CACHE", str(place[0]))
        assert main(["run", "textlatent", *place[1], "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def cached(place, monkeypatch):
    monkeypatch.setenv("LATENTSMITH_CACHE", str(place[0]))


def weights(folder, arm):
    return load_file(folder / "training" / arm / "model" / "text_latent.safetensors")


def records(folder, arm, kind):
    lines = (folder / "training" / arm / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def measured(folder):
    report = json.loads((folder / "report.json").read_text())
    return {
        arm: {m["name"]: m for m in found} for arm, found in report["measurements"].items()
    }, report


def test_run_leaves_what_a_user_looks_for(smoke):
    names = {p.name for p in smoke.iterdir()}
    assert {"config.yaml", "manifest.json", "report.html", "report.json"} <= names
    assert {p.stem for p in (smoke / "stages").iterdir()} == set(STAGES)
    for arm in ("base", "cycles"):
        found = {p.name for p in (smoke / "training" / arm / "model").iterdir()}
        assert found == {
            "text_latent.json", "text_latent.safetensors", "tokenizer.json",
            "vector_normalizer.safetensors", "encoder.json",
        }  # fmt: skip


def test_the_card_is_whole_and_baselines_are_in_it(smoke):
    assert_self_contained((smoke / "report.html").read_text())
    found, report = measured(smoke)
    assert set(found) == {
        "model", "model without cycles", "nearest training text", "tokens linear in the latent",
        "latent linear in the bag of tokens",
        "constant: commonest token of each position, mean latent",
        "decoder of equal size, token after token", "decoder of equal size, all at once",
    }  # fmt: skip
    assert {
        "content_accuracy_1", "content_accuracy_0.5", "content_accuracy_0.15", "eos_accuracy_1",
        "text_nll", "latent_use", "text_exact", "text_token_f1", "text_bleu", "text_rouge_l",
        "text_length_error", "latent_cosine_reembedded", "retrieval_at_1_reembedded",
        "text_exact_steps_1", "text_exact_best_of_2", "text_exact_one_drawn", "latent_cosine",
        "text_exact_searched", "latent_cosine_searched_reembedded",
        "retrieval_at_1", "latent_mse", "latent_norm_ratio", "latent_r2", "latent_cosine_ddim",
        "text_exact_t2l2t", "latent_cosine_l2t2l", "noise_area_f1",
        "noise_area_cosine_reembedded", "sliced_w2_sequential", "sliced_w2_joint",
        "fd_sequential", "text_distinct_2_joint", "text_memorized_sequential",
        "text_memorized_test", "drawn_agreement_joint", "nfe_text", "seconds_per_1000_texts",
        "forwards_per_sample",
    } <= set(found["model"])  # fmt: skip
    assert found["nearest training text"]["text_exact"]["value"] == 0  # no text is on two sides
    assert found["model"]["sliced_w2_joint"]["baseline"] > 0  # what real latents get
    assert found["model"]["content_accuracy_0.5"]["stamp"]["detail"]["hidden"] == 0.5
    assert [t["name"] for t in report["targets"]] == [
        "L2T: content beyond the linear map", "L2T: exact texts", "T2L: cosine",
    ]  # fmt: skip


def test_search_is_what_other_texts_are_judged_by(smoke):
    """Captions are judged by their likeliest texts; all else by what a search finds."""
    cfg = replace(Run.load(smoke).config, imported=ImportConfig(files=["x.json"]))
    cards = {
        name: load_card(smoke / "measurements" / name) for name in ("cycles", "nearest", "ridge")
    }
    for label, by in (("_searched", "L2T by search"), ("", "L2T")):
        found = {t.name: t for t in targets(cfg, cards)}
        f1 = found[f"{by}: token F1 beyond the nearest text's"]
        assert f1.measurement is cards["cycles"].get(f"text_token_f1{label}")
        assert f1.bound == cards["nearest"].get("text_token_f1").value
        near = found[f"{by}: read again, nearer than the nearest text"]
        assert near.measurement is cards["cycles"].get(f"latent_cosine{label}_reembedded")
        kept = [m for m in cards["cycles"] if "_searched" not in m.name]
        cards["cycles"] = LatentCard(kept)


def test_cycles_start_as_the_base_does(smoke):
    """Until the cycles' warm-up ends both arms are one training: the same draws."""
    base, cycles = (records(smoke, arm, "train") for arm in ("base", "cycles"))
    losses = ("text_latent/text", "text_latent/latent", "text_latent/loss")
    assert [base[0][n] for n in losses] == [cycles[0][n] for n in losses]
    ends = [records(smoke, arm, "validation")[-1] for arm in ("base", "cycles")]
    assert ends[0]["l2t/text"] != ends[1]["l2t/text"]
    assert "text_latent/cycle_text" in cycles[-1] and "text_latent/cycle_text" not in base[-1]


def test_golden_losses(smoke):
    """Change these only where the training is meant to change."""
    values = {arm: records(smoke, arm, "validation")[-1] for arm in ("base", "cycles")}
    for arm, golden in GOLDEN.items():
        for part, value in golden.items():
            assert values[arm][part] == pytest.approx(value, rel=2e-4), (arm, part)


GOLDEN = {
    "base": {"l2t/text": 3.64031, "t2l/latent": 0.91134},
    "cycles": {"l2t/text": 3.64037, "t2l/latent": 0.91141},
}


def test_the_same_command_finds_everything_done(smoke, place, cached):
    marks = {p: p.stat().st_mtime_ns for p in smoke.rglob("*.safetensors")}
    assert main(["run", "textlatent", *place[1], "--out", str(smoke)]) == 0
    assert {p: p.stat().st_mtime_ns for p in smoke.rglob("*.safetensors")} == marks


def test_interrupted_and_resumed_equals_uninterrupted(smoke, place, cached, tmp_path):
    """Cut the cycles off after half their samples, go on, get the same weights bit for bit."""
    copy = tmp_path / "copy"
    shutil.copytree(smoke, copy)
    stage = copy / "training" / "cycles"
    checkpoints = sorted((stage / "checkpoints").iterdir(), key=lambda p: int(p.name))
    assert len(checkpoints) == 2
    shutil.rmtree(checkpoints[-1])
    shutil.rmtree(stage / "model")
    (copy / "stages" / "cycles.json").unlink()
    assert main(["train", "textlatent.cycles", *place[1], "--out", str(copy)]) == 0
    ours, theirs = weights(copy, "cycles"), weights(smoke, "cycles")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_saved_model_does_what_training_saw(smoke, place, cached):
    """Latents in and out are raw; another encoder is refused."""
    config = Run.load(smoke).config
    assert isinstance(config, TextLatentRecipe)
    inputs = Inputs(config, Team.join(several_objectives=False))
    translator = Translator.load(smoke / "training/cycles/model", encoder=inputs.encoder)
    raw = inputs.data.latents(inputs.test.rows[:4])
    torch.testing.assert_close(translator.normalized(raw), inputs.test.latents(torch.arange(4)))
    torch.testing.assert_close(translator.raw(translator.normalized(raw)), raw)
    texts = inputs.test.texts(torch.arange(4))
    assert torch.equal(translator.number(texts), inputs.test.tokens[:4])
    assert translator.encode(texts).shape == (4, 1, 16)
    with torch.no_grad():
        next(inputs.encoder.model.parameters()).view(-1)[0] += 1
    with pytest.raises(UserError, match=r"another text encoder .*weights"):
        Translator.load(smoke / "training/cycles/model", encoder=inputs.encoder)


def test_the_truth_scores_perfectly_and_other_texts_do_not(smoke, cached):
    config = Run.load(smoke).config
    assert isinstance(config, TextLatentRecipe)
    inputs = Inputs(config, Team.join(several_objectives=False))
    yard, card = Yardstick(config, inputs), LatentCard()
    yard.written(card, yard.ids, "truth")
    yard.guessed(card, yard.z, "truth")
    yard.written(card, yard.ids.roll(1, 0), "others", "rolled")
    value = {m.name: m.value for m in card}
    for name in ("text_exact", "text_token_f1", "latent_cosine_reembedded", "latent_cosine"):
        assert value[name] == pytest.approx(1, abs=1e-5), name
    assert value["latent_mse"] == pytest.approx(0, abs=1e-8)
    assert value["text_exact_rolled"] == 0
    assert value["latent_cosine_rolled_reembedded"] < 0.9999


def test_a_network_with_linear_paths_starts_at_the_closed_forms_and_learns(place, cached, tmp_path):
    """After one tiny step it is still the ridge; a training improves on it."""
    words = [
        *place[1], "network.linear=true", "baselines.trained=[]", "baselines.bag_tokens=20",
        "learn.cycles.t2l2t.weight=0", "learn.cycles.l2t2l.weight=0",
    ]  # fmt: skip
    start = tmp_path / "start"
    few = [*words, "train.samples=32", "train.lr=1e-6"]
    assert main(["run", "textlatent", *few, "--until", "base", "--out", str(start)]) == 0
    translator = Translator.load(start / "training/base/model")
    inputs = Inputs(composed(words), Team.join(several_objectives=False))
    val = inputs.val.tokens
    once = torch.tensor([len(set(row)) == len(row) for row in content_of(val)])
    assert once.sum() > 4
    found = translator.model.latents_of(val[once], torch.zeros(int(once.sum()), *inputs.val.shape))
    ridge, _ = inputs.closed_forms
    expected = ridge(val[once]).view_as(found)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    out = tmp_path / "whole"
    assert main(["run", "textlatent", *words, "--out", str(out)]) == 0
    found, _ = measured(out)  # the start is a row of its own, and knows all tokens
    rows = ("latent linear in the bag of tokens", f"{ROW}: the linear path before training")
    few, all_ = (found[row]["latent_cosine"]["stamp"]["detail"]["tokens"] for row in rows)
    assert few == 20 < all_
    loss = [r["nll"] for r in records(out, "base", "validation")]
    assert loss[-1] < loss[0]


def content_of(ids):
    """Token numbers of each text before its end."""
    return [row[there].tolist() for row, there in zip(ids, content(ids), strict=True)]


def test_semi_supervised_controls_and_imports_train(place, cached, tmp_path):
    """A tenth paired, a ridge's latents for a control, latents from files."""
    words = [
        *place[1], "pairing.paired=0.5", "base=false", "baselines.trained=[]", "seed=1",
        "learn.cycles.t2l2t.source=given", "learn.modes.mode=l2t+t2l", "evaluate.reembed=false",
    ]  # fmt: skip
    assert main(["run", "textlatent", *words, "--out", str(tmp_path / "semi")]) == 0
    found, _ = measured(tmp_path / "semi")
    assert "model without cycles" not in found
    assert "latent_cosine_reembedded" not in found["model"]
    rows = []
    for i, text in enumerate(f"the {a} {b} number" for a in "abcdefgh" for b in "ijklmnopqr"):
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).normal(size=(2, 6)))
        rows.append({"text": text, "latent_path": f"{i}.npy"})
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    given = f"imported={{files:[{tmp_path / 'mine.json'}],val_count:16,test_count:16}}"
    words = [*place[1], given, "baselines.trained=[]", "base=false", "train.samples=64"]
    out = tmp_path / "imported"
    assert main(["run", "textlatent", *words, "--until", "cycles", "--out", str(out)]) == 0
    assert Translator.load(out / "training/cycles/model").shape == (2, 6)


def test_dry_run_says_what_it_would_take(capsys):
    assert main(["run", "textlatent", "scale=laptop", "--dry-run"]) == 0
    told = capsys.readouterr().out
    for word in ("parameters", "looks a sample", "GFLOP", "hours of one H100", "MB of checkpoints"):
        assert word in told


def test_mistakes_are_told(place, cached, tmp_path, capsys):
    def told(*words):
        assert main(["run", "textlatent", *place[1], *words, "--out", str(tmp_path / "x")]) == 2
        return capsys.readouterr().err

    assert "no mode 'l2tt'" in told("learn.modes.mode=l2tt")
    assert "The latent cycle is l2t2l" in told("learn.cycles.l2t2t={weight:1}")
    assert "set t_max to at most 0.98" in told("learn.predicts=noise")
    assert "leaves no pairs" in told("pairing.paired=0")
    assert "must rise" in told("evaluate.noise=[0.5,0.1]")
    assert "Did you mean 'wordnet'" in told("data=wordnett")
    assert "set learn.predicts=data" in told("network.linear=true", "learn.predicts=v")
    assert "freeze=separate needs two networks" in told("learn.cycles.t2l2t.freeze=separate")


def composed(words) -> TextLatentRecipe:
    config = compose("textlatent", words)
    assert isinstance(config, TextLatentRecipe)
    return config


def test_every_row_of_the_ablations_is_a_run():
    """Words, seeds, comparisons; all rows compose."""
    found = listed("textlatent", ["preset=ablations", "scale=smoke", "seed=0"])
    assert found is not None
    configs = [composed(words) for words in found.words]
    labels = [config.label for config in configs]
    assert len(set(labels)) == len(labels) == len(found.names) > 35
    wanted = "A1 A2 A3 A4 A5 A6 B1 B2 B3 C1 C2 C3 C4 D1 D2 D3 E1 E2 F1 F2 F3 G1 H1 H2 S1 S2 S3"
    assert set(wanted.split()) <= {label.split()[0] for label in labels}
    assert all(set(config.against) <= set(labels) for config in configs)
    assert all(config.terms for config in configs if "cycle" in config.label)
    some = listed("textlatent", ["preset=ablations", "only=B1,A6", "seed=4,5"])
    assert some is not None and len(some.words) == 4
    assert composed(some.words[-1]).against == ["A6 l2t+t2l"]
    with pytest.raises(UserError, match="no row begins with 'Q'"):
        listed("textlatent", ["preset=ablations", "only=Q"])
    with pytest.raises(UserError, match="Did you mean 'ablations'"):
        listed("textlatent", ["preset=ablation"])


def test_its_arms_can_be_explored(smoke, cached):
    found = tabs_by_arm(smoke)
    assert list(found) == ["base", "cycles"]  # the decoders compared with are no such models
    assert "roundtrip" in found["cycles"]
