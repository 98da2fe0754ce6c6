"""Sentence encoders saved by sentence-transformers."""

import json

import pytest
import torch

from helpers.texts import tiny_sentence
from latentsmith.encoders.text.minilm import MiniLMConfig, model_folder
from latentsmith.encoders.text.sentence import SentenceConfig
from latentsmith.errors import UserError

TEXTS = ["a small red cat", "the house", "a dog of the green house"]


def test_minilm_by_its_folder_is_minilm():
    one = SentenceConfig(source=str(model_folder())).build()(TEXTS).embedding
    torch.testing.assert_close(one, MiniLMConfig().build()(TEXTS).embedding)


def test_pooling_and_length_are_the_models_own(tmp_path):
    mean, first = (
        SentenceConfig(source=tiny_sentence(tmp_path / kind, kind, unit), length=12).build()
        for kind, unit in (("mean_tokens", True), ("cls_token", False))
    )
    out = first(TEXTS)
    torch.testing.assert_close(out.embedding, out.sequence[:, 0])
    out = mean(TEXTS)
    expected = torch.stack([x[m].mean(0) for x, m in zip(out.sequence, out.mask, strict=True)])
    torch.testing.assert_close(out.embedding, torch.nn.functional.normalize(expected))


def test_the_prefix_is_read_and_told(tmp_path):
    source = tiny_sentence(tmp_path)
    plain = SentenceConfig(source=source, length=12).build()
    prefixed = SentenceConfig(source=source, length=12, prefix="the ").build()
    torch.testing.assert_close(prefixed(["cat"]).embedding, plain(["the cat"]).embedding)
    assert prefixed.fingerprint() != plain.fingerprint()


def test_what_else_a_model_does_is_refused(tmp_path):
    source = tiny_sentence(tmp_path, "max_tokens")
    with pytest.raises(UserError, match="pools by pooling_mode_max_tokens: one of mean, cls"):
        SentenceConfig(source=source, length=12).build()
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules.insert(2, {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="made of Transformer, Pooling, Dense, Normalize"):
        SentenceConfig(source=source, length=12).build()


def test_too_long_or_not_there(tmp_path, monkeypatch):
    import huggingface_hub.constants

    with pytest.raises(UserError, match="reads 32 tokens at most"):
        SentenceConfig(source=tiny_sentence(tmp_path), length=64).build()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot read modules.json .*nobody/no-such"):
        SentenceConfig(source="nobody/no-such").build()
