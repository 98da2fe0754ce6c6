"""SDXL's text conditioning against diffusers' own pipeline, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_sd import SECOND_WIDTH, TEXT_LENGTH, TEXT_WIDTH
from latentsmith.encoders.text.sdxl_text import SDXLTextConfig
from latentsmith.errors import UserError

TEXTS = ["a red cat", "two dogs, one small", "a photo of a cat that is far too long", "x"]


@pytest.fixture(scope="module")
def pipeline(tiny_pipelines):
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
        StableDiffusionXLPipeline,
    )

    return StableDiffusionXLPipeline.from_pretrained(tiny_pipelines("sdxl"))


@pytest.fixture
def copied(tiny_pipelines, tmp_path):
    """A pipeline to change."""
    return Path(shutil.copytree(tiny_pipelines("sdxl"), tmp_path / "pipeline"))


def state(folder, **entries):
    """Change entries of ``model_index.json``; None removes."""
    file = folder / "model_index.json"
    given = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({k: v for k, v in given.items() if v is not None}))


@torch.no_grad()
def test_it_is_what_the_pipeline_makes_of_prompts(tiny_pipelines, pipeline):
    encoder = SDXLTextConfig(source=tiny_pipelines("sdxl")).build()
    assert pipeline.tokenizer.pad_token != pipeline.tokenizer_2.pad_token
    prompt, negative, pooled, negative_pooled = pipeline.encode_prompt(TEXTS)
    out = encoder([*TEXTS, ""])
    assert (encoder.length, encoder.width) == (TEXT_LENGTH, TEXT_WIDTH + SECOND_WIDTH)
    assert encoder.dim == SECOND_WIDTH
    torch.testing.assert_close(out.sequence[:-1], prompt, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.embedding[:-1], pooled, atol=1e-5, rtol=1e-5)
    assert torch.equal(out.sequence[-1], negative[0]) and not out.sequence[-1].any()
    assert torch.equal(out.embedding[-1], negative_pooled[0]) and not out.embedding[-1].any()
    assert out.cut.tolist() == [False, False, True, False, False]


@torch.no_grad()
def test_the_empty_prompt_is_what_the_pipeline_says(copied, pipeline):
    state(copied, force_zeros_for_empty_prompt=False)
    encoder = SDXLTextConfig(source=str(copied)).build()
    sequence, _, pooled, _ = pipeline.encode_prompt("")
    out = encoder(["", "a cat"])
    assert sequence.any() and pooled.any()
    torch.testing.assert_close(out.sequence[:1], sequence, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.embedding[:1], pooled, atol=1e-5, rtol=1e-5)
    zeros = SDXLTextConfig(source=str(copied), zeros_for_empty=True).build()
    assert not zeros([""]).sequence.any()
    assert torch.equal(zeros(["a cat"]).sequence[0], out.sequence[1])
    assert zeros.fingerprint() != encoder.fingerprint()
    state(copied, force_zeros_for_empty_prompt=None)
    assert SDXLTextConfig(source=str(copied)).build().zeros
    (copied / "model_index.json").unlink()
    assert SDXLTextConfig(source=str(copied)).build().zeros


def test_a_damaged_index_is_not_passed_over(copied):
    for text in ("{", "[]"):
        (copied / "model_index.json").write_text(text)
        with pytest.raises(UserError, match=r"model_index.json of .* is damaged.*zeros_for_empty"):
            SDXLTextConfig(source=str(copied)).build()


def test_the_fingerprint_follows_the_second_tower_and_tokenizer(copied):
    usual = SDXLTextConfig(source=str(copied)).build().fingerprint()
    shutil.copytree(copied / "tokenizer_2", copied / "tokenizer", dirs_exist_ok=True)
    other = SDXLTextConfig(source=str(copied)).build().fingerprint()
    file = copied / "text_encoder_2" / "model.safetensors"
    weights = load_file(file)
    weights["text_projection.weight"] += 1
    save_file(weights, file, metadata={"format": "pt"})
    third = SDXLTextConfig(source=str(copied)).build().fingerprint()
    assert other != usual and other["weights"] == usual["weights"]  # it pads with another token
    assert third["weights"] != usual["weights"]
    second = copied / "tokenizer_2" / "tokenizer.json"
    words = json.loads(second.read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["a</w>"], vocabulary["b</w>"] = vocabulary["b</w>"], vocabulary["a</w>"]
    second.write_text(json.dumps(words))
    fourth = SDXLTextConfig(source=str(copied)).build().fingerprint()
    assert fourth["tokenizer"] != third["tokenizer"]


def test_missing_parts_are_named(copied, tmp_path):
    with pytest.raises(UserError, match=r"cannot load the encoder '.*nowhere/text_encoder'"):
        SDXLTextConfig(source=str(tmp_path / "nowhere")).build()
    with pytest.raises(UserError, match=r"reads 20 tokens at most.*length=20"):
        SDXLTextConfig(source=str(copied), length=40).build()
    shutil.rmtree(copied / "tokenizer_2")
    with pytest.raises(UserError, match=r"tokenizer '.*tokenizer_2'"):
        SDXLTextConfig(source=str(copied)).build()
    shutil.rmtree(copied / "text_encoder_2")
    shutil.copytree(copied / "text_encoder", copied / "text_encoder_2")
    with pytest.raises(UserError, match=r"text_encoder_2' lacks 1 weight.*text_projection"):
        SDXLTextConfig(source=str(copied)).build()


def test_a_tokenizer_of_another_model_is_refused(copied):
    file = copied / "text_encoder_2" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": 40}))
    weights = load_file(copied / "text_encoder_2" / "model.safetensors")
    name = next(k for k in weights if "token_embedding" in k)
    weights[name] = weights[name][:40].clone()
    save_file(weights, copied / "text_encoder_2" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has token 81, the model sdxl_text knows only 40"):
        SDXLTextConfig(source=str(copied)).build()
