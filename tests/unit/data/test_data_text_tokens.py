"""Texts as numbers and back."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from latentsmith.data.text.tokens import TOKENS, Tokenizer
from latentsmith.data.text.tokens.base import EOS_ID, PAD_ID, UNK_ID, content, said
from latentsmith.data.text.tokens.wordpiece import WordPieceConfig
from latentsmith.data.text.tokens.words import WordsConfig, WordSplitter
from latentsmith.errors import UserError

TEXTS = ["a red star, on a half-circle", "a blue star", "a star on a star"]


def fitted(config=None, texts=TEXTS) -> Tokenizer:
    config = config or WordsConfig(length=10)
    splitter = config.splitter()
    return config.fit(splitter.split(texts), splitter)


def test_rows_end_in_eos_and_are_filled_by_policy():
    fill = fitted().encode(["a star"])
    given = fitted(WordsConfig(length=10, policy="given_length")).encode(["a star"])
    assert fill.ids[0].tolist() == [3, 4, *[EOS_ID] * 8]  # most frequent first
    assert given.ids[0].tolist() == [3, 4, EOS_ID, *[PAD_ID] * 7]
    assert fill.length.tolist() == given.length.tolist() == [2]


def test_content_said_and_present():
    tokenizer = fitted(WordsConfig(length=6, policy="given_length"))
    ids = torch.tensor([[3, 4, EOS_ID, PAD_ID, PAD_ID, PAD_ID], [3, 3, 3, 3, 3, 3]])
    assert content(ids).sum(1).tolist() == [2, 6]
    assert said(ids).sum(1).tolist() == [3, 6]
    assert tokenizer.present(ids).sum(1).tolist() == [3, 6]
    filled = torch.tensor([[3, EOS_ID, EOS_ID, 3, EOS_ID, EOS_ID]])
    assert content(filled).sum() == 1 and said(filled).sum() == 2
    assert bool(fitted(WordsConfig(length=6)).present(filled).all())


@pytest.mark.parametrize("name", TOKENS.names())
def test_what_is_decoded_reads_the_same(name):
    config = TOKENS[name].config(length=24)
    tokenizer = fitted(config)
    tokens = tokenizer.encode(TEXTS)
    again = tokenizer.encode(tokenizer.decode(tokens.ids))
    assert torch.equal(tokens.ids, again.ids)
    assert int(tokens.ids.max()) < tokenizer.mask_id == tokenizer.size - 1


def test_words_decode_to_the_very_text():
    tokenizer = fitted()
    assert tokenizer.decode(tokenizer.encode(TEXTS).ids) == TEXTS


def test_only_the_most_frequent_pieces_are_known():
    tokenizer = fitted(WordsConfig(length=10, vocabulary=2))
    tokens = tokenizer.encode(TEXTS)
    assert tokenizer.names == ["[PAD]", "[EOS]", "[UNK]", "a", "star", "[MASK]"]
    unknown = int((tokens.ids == UNK_ID).sum())
    assert unknown == 6 and tokenizer.unknown_share(tokens) == unknown / int(tokens.length.sum())
    assert tokenizer.decode(tokens.ids)[1] == "a [UNK] star"


def test_equally_frequent_pieces_come_in_alphabetical_order():
    assert fitted(texts=["c b a"]).names == fitted(texts=["a c b"]).names


def test_a_mask_is_shown_by_name_and_ends_nothing():
    tokenizer = fitted()
    ids = tokenizer.encode(["a blue star"]).ids
    ids[0, 1] = tokenizer.mask_id
    assert tokenizer.decode(ids) == ["a [MASK] star"]


def test_a_text_that_does_not_fit_is_named():
    with pytest.raises(UserError, match=r"text 1 has 10 pieces.*10 positions of tokens.length"):
        fitted().encode(["a", "a a a a a a a a a a"])


def test_lengths_kept():
    config = WordsConfig(length=6, shortest=2)
    assert [config.fits(["a"] * n) for n in (1, 2, 5, 6)] == [False, True, True, False]
    with pytest.raises(ValidationError, match=r"shortest=9 leaves no text of at most length-1=5"):
        TypeAdapter(WordsConfig).validate_python({"kind": "words", "length": 6, "shortest": 9})


def test_saved_and_loaded(tmp_path):
    tokenizer = fitted(WordPieceConfig(length=24))
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.fingerprint() == tokenizer.fingerprint() and loaded.names == tokenizer.names
    assert torch.equal(loaded.encode(TEXTS).ids, tokenizer.encode(TEXTS).ids)


def test_another_splitter_is_refused(tmp_path, monkeypatch):
    fitted().save(tmp_path)
    monkeypatch.setattr(WordSplitter, "fingerprint", lambda self: "another rule")
    with pytest.raises(UserError, match=r"made with another words splitter"):
        Tokenizer.load(tmp_path)


def test_a_damaged_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"missing or damaged"):
        Tokenizer.load(tmp_path)


def test_word_pieces_are_the_encoders_own():
    """Against transformers' own tokenization of a text."""
    from transformers import AutoTokenizer

    from latentsmith.encoders.text.minilm import model_folder

    text = "Unquestionably naïve: a half-circle, 3.14%"
    oracle = AutoTokenizer.from_pretrained(str(model_folder())).tokenize(text)
    assert WordPieceConfig().splitter().split([text]) == [oracle]


def test_the_fingerprint_follows_length_policy_and_vocabulary():
    prints = [
        str(fitted(config).fingerprint())
        for config in (
            WordsConfig(length=10),
            WordsConfig(length=11),
            WordsConfig(length=10, policy="given_length"),
            WordsConfig(length=10, vocabulary=2),
        )
    ]
    assert len(set(prints)) == 4
