"""Corpora with latents on disk: made, gone on with, refused."""

import json

import numpy as np
import pytest
import torch

from helpers.texts import DIM, WordSums, small_captions
from latentsmith.data.text import build
from latentsmith.data.text.build import Embeddings, embed, fit_tokenizer, prepare, write_corpus
from latentsmith.data.text.captions import CaptionsConfig
from latentsmith.data.text.importer import ImportConfig, import_corpus
from latentsmith.data.text.store import CORPUS_FILE, TEXTS_FILE, TextLatents
from latentsmith.data.text.tokens.words import WordsConfig
from latentsmith.errors import UserError

CAPTIONS = CaptionsConfig(scenes=1_500, train_count=60, val_count=20, test_count=20)
TOKENS = WordsConfig(length=24)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small_captions(tmp_path_factory.mktemp("corpus"))


def test_rows_splits_and_latents_belong_together(made):
    data, _ = made
    encoder = WordSums()
    assert [len(data.rows(part)) for part in ("train", "val", "test")] == [200, 40, 40]
    rows = data.rows("test")[:5]
    expected = encoder(data.texts_of(rows)).embedding[:, None]
    torch.testing.assert_close(data.latents(rows), expected)
    assert data.shape == (1, DIM) and bool(data.has_text.all() and data.has_latent.all())


def test_tokens_are_kept_for_each_tokenizer(made):
    data, tokenizer = made
    tokens = data.tokens(tokenizer)
    rows = data.rows("val")
    assert tokenizer.decode(tokens.ids[rows]) == data.texts_of(rows)
    [kept] = data.path.glob("tokens-*")
    before = kept.stat().st_mtime_ns
    assert torch.equal(data.tokens(tokenizer).ids, tokens.ids)
    assert kept.stat().st_mtime_ns == before
    kept.write_bytes(b"damaged")
    assert torch.equal(data.tokens(tokenizer).ids, tokens.ids)


def test_the_second_time_nothing_is_computed(tmp_path, monkeypatch):
    encoder = WordSums()
    first, _ = prepare(CAPTIONS, TOKENS, encoder, tmp_path)
    assert sum(map(len, encoder.calls)) == 100
    monkeypatch.setattr(build, "select", None)
    again, _ = prepare(CAPTIONS, TOKENS, encoder, tmp_path)
    assert sum(map(len, encoder.calls)) == 100
    assert again.path == first.path and again.digest == first.digest


def test_another_encoder_lies_beside_the_first(tmp_path):
    first, _ = prepare(CAPTIONS, TOKENS, WordSums(), tmp_path)
    other = WordSums()
    other.seed = 1
    second, _ = prepare(CAPTIONS, TOKENS, other, tmp_path)
    assert second.path == first.path and second.digest != first.digest
    assert not torch.equal(first.latents(torch.arange(3)), second.latents(torch.arange(3)))
    with pytest.raises(UserError, match=r"latents of 2 encoders: name one of latents-word_sums"):
        TextLatents(first.path)


def test_an_interrupted_embedding_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "CALL", 16)
    path = write_corpus(CAPTIONS.read(tmp_path), CAPTIONS, TOKENS, tmp_path)
    whole = embed(path, WordSums(), stored="float32")
    rows = torch.arange(len(whole))
    expected = whole.latents(rows)
    encoder = WordSums()
    other = tmp_path / "other"
    path = write_corpus(CAPTIONS.read(tmp_path), CAPTIONS, TOKENS, other)

    def stop(done, owed):
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(path, encoder, stored="float32", progress=stop)
    with pytest.raises(UserError, match="not finished"):
        TextLatents(path)
    before = len(encoder.calls)
    data = embed(path, encoder, stored="float32")
    again = sum(map(len, encoder.calls[before:]))
    assert 0 < again < 100 and torch.equal(data.latents(rows), expected)


def test_embeddings_come_back_in_the_order_of_texts():
    texts = ["a b c d e f", "a", "a b c", "a b"]
    encoder = WordSums()
    found, _ = Embeddings(encoder, texts, "float32", batch_size=2)(torch.tensor([2, 0, 3, 1]))
    order = [texts[2], texts[0], texts[3], texts[1]]
    torch.testing.assert_close(found["latent"][:, 0], encoder(order).embedding)
    assert encoder.calls[0] == ["a", "a b"]  # little is padded


def test_a_text_the_encoder_would_cut_is_refused():
    encoder = WordSums()
    encoder.length = 2
    with pytest.raises(UserError, match=r"'a b c' is longer than the 2 tokens"):
        Embeddings(encoder, ["a", "a b c"], "float32")(torch.tensor([0, 1]))


def test_a_vector_that_is_not_finite_is_refused():
    class Broken(WordSums):
        def _vector(self, text):
            return super()._vector(text) * (torch.nan if text == "bad" else 1)

    with pytest.raises(UserError, match=r"'bad': NaN or infinity"):
        Embeddings(Broken(), ["a", "bad"], "float32")(torch.tensor([0, 1]))


def test_damaged_texts_are_refused(tmp_path):
    data, _ = small_captions(tmp_path)
    file = data.path / TEXTS_FILE
    content = file.read_text()
    file.write_text(content.replace("red", "blue"))
    with pytest.raises(UserError, match=r"texts.jsonl is damaged or of another corpus"):
        TextLatents(data.path)
    file.write_text(content[:-9])
    with pytest.raises(UserError, match=r"missing or damaged"):
        TextLatents(data.path)


def test_latents_of_other_texts_are_refused(tmp_path):
    first, _ = small_captions(tmp_path / "a")
    second, _ = small_captions(tmp_path / "b", train=100)
    first.store.path.rename(first.path / "aside")
    second.store.path.rename(first.store.path)
    with pytest.raises(UserError, match=r"belong to other texts"):
        TextLatents(first.path)


def test_too_few_texts_name_corpus_and_lengths(tmp_path):
    config = CaptionsConfig(scenes=50, val_count=40, test_count=40)
    with pytest.raises(UserError, match=r"corpus captions, texts of 3 to 23 pieces: .*test_count"):
        write_corpus(config.read(tmp_path), config, TOKENS, tmp_path)


def test_the_vocabulary_is_of_training_texts_alone(made):
    data, tokenizer = made
    splitter = TOKENS.splitter()
    train = {
        word for text in data.texts_of(data.rows("train")) for word in splitter.split([text])[0]
    }
    assert set(tokenizer.names[3:-1]) == train
    assert fit_tokenizer(data, TOKENS).names == tokenizer.names


class TestImport:
    def source(self, folder, count=30, shape=(DIM,)):
        rows = []
        for i in range(count):
            name = f"latents/{i:03d}.npy"
            (folder / "latents").mkdir(parents=True, exist_ok=True)
            np.save(folder / name, np.full(shape, i, dtype=np.float32))
            rows.append({"text": f"a text of number {i}", "latent_path": name, "id": i})
        return rows

    def config(self, folder, rows, **settings):
        (folder / "train_data.json").write_text(json.dumps(rows))
        given = {"files": [folder / "train_data.json"], "val_count": 5, "test_count": 5}
        return ImportConfig(**given | settings)

    def test_pairs(self, tmp_path):
        rows = self.source(tmp_path)
        data = import_corpus(self.config(tmp_path, rows), tmp_path / "out", tmp_path)
        assert [len(data.rows(part)) for part in ("train", "val", "test")] == [20, 5, 5]
        every = torch.arange(30)
        numbers = [int(text.split()[-1]) for text in data.texts_of(every)]
        assert data.latents(every)[:, 0, 0].tolist() == numbers
        again = import_corpus(self.config(tmp_path, rows), tmp_path / "out", tmp_path)
        assert again.digest == data.digest and TextLatents(data.path).digest == data.digest

    def test_other_layouts(self, tmp_path):
        rows = self.source(tmp_path, shape=(2, DIM))
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows[:15])) + "\n")
        (tmp_path / "b.json").write_text(
            json.dumps({row["text"]: row["latent_path"] for row in rows[15:]})
        )
        files = [tmp_path / "a.jsonl", tmp_path / "b.json"]
        config = ImportConfig(files=files, val_count=5, test_count=5)
        data = import_corpus(config, tmp_path / "out", tmp_path)
        assert len(data) == 30 and data.shape == (2, DIM)

    def test_rows_with_one_side_train(self, tmp_path):
        rows = self.source(tmp_path)
        rows[3] = {"text": "a text of number 3"}
        rows[4] = {"text": None, "latent_path": rows[4]["latent_path"]}
        data = import_corpus(self.config(tmp_path, rows), tmp_path / "out", tmp_path)
        assert int(data.has_text.sum()) == 29 and int(data.has_latent.sum()) == 29
        lone = (~data.has_text | ~data.has_latent).nonzero()[:, 0].tolist()
        assert len(lone) == 2 and {data.split[row] for row in lone} == {"train"}
        with pytest.raises(UserError, match="has no latent"):
            data.latents((~data.has_latent).nonzero()[:, 0])
        with pytest.raises(UserError, match="has no text"):
            data.texts_of((~data.has_text).nonzero()[:, 0])

    def test_a_lone_text_that_is_held_out_as_a_pair_does_not_train(self, tmp_path):
        rows = self.source(tmp_path)
        rows += [{"text": row["text"].upper()} for row in rows]
        data = import_corpus(self.config(tmp_path, rows), tmp_path / "out", tmp_path)
        held = {data.texts[i].casefold() for i, part in enumerate(data.split) if part != "train"}
        train = {data.texts[i].casefold() for i, part in enumerate(data.split) if part == "train"}
        assert len(held) == 10 and not held & train

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda rows, _: rows[3].pop("text") and rows[3].pop("latent_path"), r"row 3 has nei"),
            (lambda rows, _: rows[3].update(text=7), r"row 3: 'text' holds 7"),
            (lambda rows, _: rows[3].update(text=" "), r"row 3: the text is empty"),
            (lambda rows, _: rows[3].update(latent_path="no.npy"), r"no.npy cannot be read"),
            (lambda _, f: (f / "latents/003.npy").write_bytes(b"x"), r"003.npy cannot be read"),
            (
                lambda _, f: np.save(f / "latents/003.npy", np.zeros(3, dtype=np.float32)),
                r"003.npy has shape \[1, 3\], the first has \[1, 16\]",
            ),
            (
                lambda _, f: np.save(f / "latents/003.npy", np.zeros(DIM, dtype=np.int64)),
                r"003.npy is int64 \[16\]",
            ),
            (
                lambda _, f: np.save(f / "latents/003.npy", np.full(DIM, np.nan, np.float32)),
                r"003.npy: NaN or infinity",
            ),
        ],
    )
    def test_a_row_that_cannot_be_read_is_never_skipped(self, tmp_path, change, told):
        rows = self.source(tmp_path)
        change(rows, tmp_path)
        with pytest.raises(UserError, match=told):
            import_corpus(self.config(tmp_path, rows), tmp_path / "out", tmp_path)


def test_what_a_corpus_says_of_itself(made):
    told = json.loads((made[0].path / CORPUS_FILE).read_text())
    assert told["name"] == "captions" and told["count"] == 280
    assert told["selection"]["left_out"]["not needed"] > 0
