"""Few texts in memory: rows by class and by sample, the empty prompt, refusals."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_models import tiny_clip_text, tiny_sdxl_text
from latentsmith.data.memory import MemoryDataset
from latentsmith.encoders.text.clip_text import ClipTextConfig
from latentsmith.encoders.text.sdxl_text import SDXLTextConfig
from latentsmith.errors import UserError
from latentsmith.stores import text_table
from latentsmith.stores.text_table import TextTable
from latentsmith.stores.texts import Texts, cache_texts, class_texts


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    source = tiny_clip_text(tmp_path_factory.mktemp("clip"))
    return ClipTextConfig(source=source, output="sequence").build()


@pytest.fixture(scope="module")
def classes(encoder, tmp_path_factory):
    images = torch.zeros(6, 3, 4, 4, dtype=torch.uint8)
    data = MemoryDataset(images, torch.arange(6) % 2, name="d", classes=["cat", "dog"])
    return cache_texts(encoder, class_texts(data), tmp_path_factory.mktemp("store") / "classes")


def test_a_label_finds_its_class_and_the_last_text_is_empty(encoder, classes):
    table = TextTable.of(classes)
    want = encoder(["a photo of a dog", "a photo of a cat", ""]).sequence
    assert len(table) == 3
    torch.testing.assert_close(table(torch.tensor([1, 0])).float(), want[:2], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(table.null.float(), want[2], atol=2e-3, rtol=2e-3)
    assert table(torch.tensor([1, 1])).shape == (2, *want.shape[1:])


def test_it_may_be_on_another_device_than_the_labels(classes, gpu):
    labels = torch.tensor([1, 0])
    table, text = TextTable.of(classes).to(gpu), TextTable.of(classes)(labels)
    assert torch.equal(table(labels).cpu(), text)
    assert table.condition(labels.to(gpu))["text"].device == gpu


def test_samples_that_share_a_text_share_a_row(encoder, tmp_path):
    texts = Texts.of("captions", ["a", "b", "a", None])
    table = TextTable.of(cache_texts(encoder, texts, tmp_path / "texts"))
    rows = table(torch.tensor([0, 1, 2]))
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])
    for number in (3, 4, -1):
        with pytest.raises(UserError, match=f"no text of number {number}"):
            table(torch.tensor([0, number]))


def test_it_is_neither_trained_nor_saved(classes):
    table = TextTable.of(classes)
    assert not list(table.parameters()) and not table.state_dict()
    assert table.to(torch.float32).embedding.dtype == torch.float32


def test_stores_of_something_else_are_refused(encoder, classes, tmp_path, monkeypatch):
    pooled = ClipTextConfig(source=encoder.model.name_or_path, output="embedding").build()
    store = cache_texts(pooled, Texts.of("t", ["a"]), tmp_path / "pooled")
    with pytest.raises(UserError, match=r"no token embeddings.*text_encoder\.output=sequence"):
        TextTable.of(store)
    monkeypatch.setattr(text_table, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="too much to hold in memory"):
        TextTable.of(classes)


def test_saved_and_loaded(classes, tmp_path):
    table = TextTable.of(classes)
    path = table.save(tmp_path)
    again = TextTable.load(tmp_path)
    assert torch.equal(again.embedding, table.embedding)
    assert torch.equal(again.of_sample, table.of_sample)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="missing or damaged"):
        TextTable.load(tmp_path)


def test_pooled_embeddings_go_along_where_networks_are_told_them(classes, tmp_path):
    encoder = SDXLTextConfig(source=tiny_sdxl_text(tmp_path / "xl")).build()
    store = cache_texts(encoder, Texts.of("texts", ["a cat", "a dog"]), tmp_path / "store")
    assert store.manifest.fields["pooled"].shape == (8,)
    table, labels = TextTable.of(store), torch.tensor([1, 0, 0])
    want = encoder(["a dog", "a cat", "a cat"])
    told = table.condition(labels)
    assert set(told) == {"text", "pooled", "mask"}
    torch.testing.assert_close(told["text"].float(), want.sequence, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(told["pooled"].float(), want.embedding, atol=2e-3, rtol=2e-3)
    assert table.null_pooled is not None and not table.null_pooled.any()
    assert not table.state_dict()
    table.save(tmp_path)
    again = TextTable.load(tmp_path).condition(labels)
    assert all(torch.equal(again[name], value) for name, value in told.items())
    with pytest.raises(UserError, match="no text of number 2"):
        table.condition(torch.tensor([2]))
    plain = TextTable.of(classes)  # of an encoder without: as ever
    assert plain.null_pooled is None and set(plain.condition(labels)) == {"text", "mask"}
    assert set(load_file(plain.save(tmp_path))) == {"embedding", "of_sample", "mask"}
    assert TextTable.load(tmp_path).pooled is None


def test_masks_say_where_there_are_tokens(encoder, classes, tmp_path):
    table, labels = TextTable.of(classes), torch.tensor([1, 0, 1])
    want = encoder(["a photo of a dog", "a photo of a cat", ""])
    assert table.null_mask is not None and torch.equal(table.null_mask.bool(), want.mask[2])
    assert torch.equal(table.condition(labels)["mask"].bool(), want.mask[[0, 1, 0]])
    assert 0 < int(want.mask[2].sum()) < int(want.mask[0].sum()) < want.mask.shape[1]
    table.save(tmp_path)
    again = TextTable.load(tmp_path)
    assert again.mask is not None and torch.equal(again.mask, table.mask)
    assert not table.state_dict()


def test_tables_of_before_masks_were_kept_still_load(classes, tmp_path):
    table = TextTable.of(classes)
    old = {"embedding": table.embedding, "of_sample": table.of_sample}
    save_file(old, tmp_path / text_table.FILE_NAME)
    again = TextTable.load(tmp_path)
    assert again.mask is None and again.null_mask is None
    assert set(again.condition(torch.tensor([1]))) == {"text"}


def test_one_vector_a_text_holds_no_other(tmp_path):
    config = SDXLTextConfig(source=tiny_sdxl_text(tmp_path / "xl"), output="embedding")
    store = cache_texts(config.build(), Texts.of("texts", ["a cat"]), tmp_path / "store")
    assert {k: f.shape for k, f in store.manifest.fields.items()} == {"embedding": (8,)}
