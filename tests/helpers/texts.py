"""Small corpora with latents, made without a sentence encoder."""

from collections.abc import Sequence
from pathlib import Path

import torch

from latentsmith.data.text.build import embed, fit_tokenizer, write_corpus
from latentsmith.data.text.captions import CaptionsConfig
from latentsmith.data.text.store import TextLatents
from latentsmith.data.text.tokens import Tokenizer
from latentsmith.data.text.tokens.words import WordsConfig, WordSplitter
from latentsmith.encoders.text import TextOutput
from latentsmith.utils.seeding import generator

DIM = 16


class WordSums:
    """A text encoder whose vector is the sum of its words' random vectors, at length 1. Where a
    word stands matters a little, so that different captions have different vectors."""

    dim, length, seed = DIM, 64, 0

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> TextOutput:
        self.calls.append(list(texts))
        value = torch.stack([self._vector(text) for text in texts])
        cut = torch.tensor([len(text.split()) > self.length for text in texts])
        return TextOutput(value, value[:, None], torch.ones(len(texts), 1).bool(), cut)

    def _vector(self, text: str) -> torch.Tensor:
        total = torch.zeros(DIM)
        for place, word in enumerate(WordSplitter().split([text])[0]):
            drawn = torch.randn(DIM, generator=generator("word", self.seed, word))
            total += drawn + 0.3 * place * drawn.roll(1) / 10
        return total / total.norm()

    def fingerprint(self) -> dict[str, object]:
        return {"kind": "word_sums", "seed": self.seed}


def small_captions(
    folder: Path, train: int = 200, held: int = 40, **settings: object
) -> tuple[TextLatents, Tokenizer]:
    """Captions with the vectors of `WordSums`, and their tokenizer."""
    config = CaptionsConfig(scenes=2_000, train_count=train, val_count=held, test_count=held)
    tokens = WordsConfig(**{"length": 24} | settings)
    path = write_corpus(config.read(folder), config, tokens, folder / "corpora")
    data = embed(path, WordSums(), stored="float32")  # pyright: ignore[reportArgumentType]
    return data, fit_tokenizer(data, tokens)


def tiny_sentence(folder: Path, pooling: str = "mean_tokens", unit: bool = True) -> str:
    """Save a one-layer BERT of width 16 as the sentence-transformers library would."""
    import json

    from transformers import BertConfig, BertModel

    from helpers.tiny_models import tiny_tokenizer

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tiny_tokenizer(folder, begin="[BOS]", length=32)
    kinds = ["Transformer", "Pooling", "Normalize"][: 3 if unit else 2]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "path": paths[i], "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    told = {"word_embedding_dimension": 16, f"pooling_mode_{pooling}": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(told))
    return str(folder)
