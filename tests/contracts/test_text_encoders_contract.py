"""What every registered text encoder must hold to. A new one needs a line in `make`."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.texts import tiny_sentence
from helpers.tiny_models import tiny_clip_text, tiny_sdxl_text, tiny_t5
from latentsmith.encoders.text import TEXT_ENCODERS, TextEncoder
from latentsmith.errors import UserError


def make(name: str, folder: Path, **settings) -> TextEncoder:
    """The encoder at its smallest, reading 12 tokens."""
    config = TEXT_ENCODERS[name].config
    if name == "minilm":
        return config(**({"length": 12} | settings)).build()
    if name == "clip_text":
        return config(source=tiny_clip_text(folder), **settings).build()
    if name == "sdxl_text":
        return config(source=tiny_sdxl_text(folder), **settings).build()
    if name == "sentence":
        return config(source=tiny_sentence(folder), **({"length": 12} | settings)).build()
    if name == "t5":
        return config(source=tiny_t5(folder), **({"length": 12} | settings)).build()
    raise AssertionError(f"text encoder {name!r} is new: say here how to make a tiny one")


ALL = pytest.mark.parametrize("name", TEXT_ENCODERS.names())
TEXTS = ["a photo of a small red cat", "the green house", "", "a dog"]


@ALL
def test_shapes_types_and_no_graph(name, tmp_path):
    encoder = make(name, tmp_path)
    out = encoder(TEXTS)
    assert encoder.length == 12
    assert out.embedding.shape == (4, encoder.dim)
    assert out.sequence.shape == (4, 12, encoder.width)
    assert out.mask.shape == (4, 12)
    assert out.cut.shape == (4,)
    assert out.embedding.dtype == out.sequence.dtype == torch.float32
    assert out.mask.dtype == out.cut.dtype == torch.bool
    assert out.embedding.isfinite().all()
    assert out.sequence.isfinite().all()
    assert not out.embedding.requires_grad
    assert not out.sequence.requires_grad


@ALL
def test_on_a_gpu(name, tmp_path, gpu):
    out = make(name, tmp_path).to(gpu)(TEXTS)
    assert out.embedding.device == out.sequence.device == out.mask.device == gpu


@ALL
def test_values_depend_on_the_text_and_on_nothing_else(name, tmp_path):
    encoder = make(name, tmp_path)
    together = encoder(TEXTS)
    alone = [encoder([text]) for text in TEXTS]
    torch.testing.assert_close(
        together.embedding, torch.cat([o.embedding for o in alone]), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        together.sequence, torch.cat([o.sequence for o in alone]), rtol=1e-4, atol=1e-5
    )
    assert torch.equal(together.mask, torch.cat([o.mask for o in alone]))
    assert (together.embedding[0] - together.embedding[1]).abs().max() > 1e-3


@ALL
def test_the_mask_counts_tokens_and_long_texts_are_said_to_be_cut(name, tmp_path):
    encoder = make(name, tmp_path)
    out = encoder(["a cat", "a photo of a cat", "a dog " * 20])
    counts = out.mask.sum(1).tolist()
    assert counts[1] == counts[0] + 3
    assert counts[2] == 12
    assert out.cut.tolist() == [False, False, True]
    for row, count in zip(out.mask, counts, strict=True):  # real tokens come first
        assert row[:count].all()


@ALL
def test_stays_frozen_and_in_evaluation_mode(name, tmp_path):
    encoder = make(name, tmp_path)
    nn.ModuleDict({"text": encoder}).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())


@ALL
def test_digest_and_fingerprint_are_stable_and_json(name, tmp_path):
    first, second = (make(name, tmp_path / part) for part in "ab")
    assert first.fingerprint() == second.fingerprint()
    assert json.loads(json.dumps(first.fingerprint())) == first.fingerprint()
    assert first.fingerprint()["kind"] == name == first.name
    assert first.digest() == first.fingerprint()["weights"]
    first(["a " * 30])  # reading texts must not change what the tokenizer is taken for
    assert first.fingerprint() == second.fingerprint()


@ALL
def test_fingerprint_follows_weights_length_and_output(name, tmp_path):
    encoder = make(name, tmp_path / "a")
    usual = encoder.fingerprint()
    assert make(name, tmp_path / "b", length=8).fingerprint() != usual
    other = "embedding" if encoder.output == "sequence" else "sequence"
    assert make(name, tmp_path / "c", output=other).fingerprint() != usual
    next(encoder.model.parameters()).data.view(-1)[0] += 1
    assert encoder.fingerprint() != usual


@ALL
def test_no_text_is_a_mistake(name, tmp_path):
    encoder = make(name, tmp_path)
    for wrong in ([], "a cat"):
        with pytest.raises(UserError, match="list of at least one text"):
            encoder(wrong)


@ALL
def test_help_is_one_short_line_and_needs_are_told(name):
    entry = TEXT_ENCODERS[name]
    assert 0 < len(entry.help) <= 80
    assert entry.config().needs()
