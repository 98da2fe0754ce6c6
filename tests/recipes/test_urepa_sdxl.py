"""urepa on Stable Diffusion XL's layout: two text towers, pooled embeddings, image sizes."""

import json
from pathlib import Path

import pytest
import torch

from helpers.small_urepa import SMALL
from helpers.tiny_models import tiny_dinov2
from helpers.tiny_sd import SECOND_WIDTH, TEXT_LENGTH, TEXT_WIDTH
from latentsmith.cli import main
from latentsmith.encoders.text.sdxl_text import SDXLTextConfig
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.guidance.cfg import CfgConfig
from latentsmith.sampling.samplers.ddim import DdimConfig
from latentsmith.stores.base import open_store
from latentsmith.stores.text_table import TextTable

WHOLE = [128, 128, 0, 0, 128, 128]


def words(pipeline, teacher):
    """The paper's settings with an XL pipeline, at the size of a test."""
    return [
        "scale=paper", *SMALL, f"autoencoder.source={pipeline}", f"unet.source={pipeline}",
        "text_encoder=sdxl_text", f"text_encoder.source={pipeline}", f"teacher.source={teacher}",
        "teacher.resolution=56", "unet.frozen_dtype=float32", 'template="a {}"',
    ]  # fmt: skip


@pytest.fixture(scope="module")
def places(tiny_pipelines, tmp_path_factory):
    """(words of the settings, cache)."""
    base = tmp_path_factory.mktemp("xl")
    return words(tiny_pipelines("sdxl"), tiny_dinov2(base / "teacher")), base / "cache"


def run(places, folder, *more) -> list[dict]:
    """A finished run, and every condition its networks were given."""
    from latentsmith.backbones.unet_condition import TextCondition

    given, cache = places
    seen, check = [], TextCondition.check

    def look(self, condition, count):
        seen.append({name: value.detach().clone() for name, value in condition.items()})
        check(self, condition, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTSMITH_CACHE", str(cache))
        patch.setattr(TextCondition, "check", look)
        assert main(["run", "urepa", *given, *more, "--out", str(folder)]) == 0
    return seen


def tables(*parts: TextTable) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [T, L, E] and pooled [T, P] of all their texts, float32."""
    words, wholes = zip(*((part.embedding, part.pooled) for part in parts), strict=True)
    return torch.cat(words).float(), torch.cat(wholes).float()


def told_together(seen, embedding, pooled) -> set[int]:
    """Rows of a table that were told: the same one as text and as pooled, in every condition."""
    rows = set()
    for condition in seen:
        for text, whole in zip(condition["text"].float(), condition["pooled"].float(), strict=True):
            those = (embedding == text).flatten(1).all(1) & (pooled == whole).all(1)
            assert those.any(), "a text that is none of the table's, or with another's pooled"
            rows.add(int(those.nonzero()[0]))
    return rows


@pytest.fixture(scope="module")
def adapted(places, tmp_path_factory):
    """(folder of a run told class names, conditions)."""
    folder = tmp_path_factory.mktemp("xl-run") / "run"
    return folder, run(places, folder)


def test_it_trains_and_measures(adapted):
    folder, seen = adapted
    report = json.loads((folder / "report.json").read_text())
    assert set(report["measurements"]) == {"base", "aligned", "teacher"}
    named = {m["name"].split("_")[0] for m in report["measurements"]["aligned"]}
    assert {"fd", "token", "linear"} <= named
    assert all(c["time_ids"].unique(dim=0).tolist() == [WHOLE] for c in seen)
    table = TextTable.load(folder / "training/aligned/generator")
    assert told_together(seen, *tables(table)) == set(range(len(table)))


def test_the_saved_generator_knows_texts_and_empty_prompt(adapted, tiny_pipelines):
    generator = LatentGenerator.load(adapted[0] / "training/aligned/generator")
    assert generator.texts is not None and generator.info.classes is not None
    encoder = SDXLTextConfig(source=tiny_pipelines("sdxl")).build()
    want = encoder([f"a {name}" for name in generator.info.classes])
    told = generator.texts.condition(torch.arange(len(generator.info.classes)))
    assert want.sequence.shape[1:] == (TEXT_LENGTH, TEXT_WIDTH + SECOND_WIDTH)
    torch.testing.assert_close(told["text"].float(), want.sequence, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(told["pooled"].float(), want.embedding, atol=2e-3, rtol=2e-3)
    empty = generator.backbone.conditions
    assert not empty.null_text.any() and not empty.null_pooled.any()  # zeros, as XL's
    how = {"sampler": DdimConfig(steps=2), "guidance": CfgConfig(scale=2.0)}
    images = generator.sample(range(4), **how)
    assert images.shape == (4, 3, 32, 32) and images.isfinite().all()


def test_captions_and_their_pooled_come_from_the_held_out_images(places, tmp_path):
    folder = tmp_path / "run"
    seen = run(places, folder, "texts=captions")
    caches = json.loads((folder / "stages/caches.json").read_text())["summary"]
    train, held_out = (
        TextTable.of(open_store(Path(caches[part]["texts"]))) for part in ("train", "val")
    )
    want = held_out.condition(torch.arange(16))  # of the validation before the first step
    want.pop("mask")  # a U-Net attends to padding, too, and is not told it
    assert all(torch.equal(seen[0][name].half(), value) for name, value in want.items())
    assert "mask" not in seen[0]
    trained = [c for c in seen if len(c["text"]) == 16]
    measured = [c for c in seen if len(c["text"]) > 16]
    assert len(told_together(trained, *tables(train, held_out))) > 20
    assert len(told_together(measured, *tables(held_out))) > 20
    assert LatentGenerator.load(folder / "training/aligned/generator").texts is None
