"""Several stores as one table, joined by key."""

import itertools

import pytest
import torch

from helpers.reading import make_store
from latentsmith.errors import UserError
from latentsmith.stores.joined import Joined
from latentsmith.stores.source import StoreBatches

LATENTS = {"mean": torch.arange(12.0)[:, None].repeat(1, 4), "label": torch.arange(12)}
TOKENS = {"tokens": (torch.arange(12)[:, None, None] * 10).half().repeat(1, 2, 3)}
KEYS = [f"image {i}" for i in range(12)]
SHUFFLED = [5, 0, 11, 3, 2, 1, 4, 10, 9, 8, 7, 6]


@pytest.fixture
def latents(tmp_path):
    return make_store(tmp_path / "latents", LATENTS, keys=KEYS)


def tokens(tmp_path, order=SHUFFLED, **options):
    """The tokens of the samples ``order``, in that order."""
    values = {"tokens": TOKENS["tokens"][order]}
    return make_store(tmp_path / "tokens", values, keys=[KEYS[i] for i in order], **options)


@pytest.mark.parametrize("backend", ["shards", "lmdb"])
@pytest.mark.parametrize("order", [SHUFFLED, list(range(12))])
def test_rows_meet_by_key(tmp_path, latents, backend, order):
    stores = {"": latents, "teacher": tokens(tmp_path, order, backend=backend)}
    batches = StoreBatches(stores, batch_size=5, seed=0)
    for batch in itertools.islice(batches.iterate(0), 8):
        assert set(batch) == {"index", "mean", "label", "teacher/tokens"}
        rows = batch["index"]
        assert torch.equal(batch["mean"], LATENTS["mean"][rows])
        assert torch.equal(batch["teacher/tokens"], TOKENS["tokens"][rows])
    stores["teacher"].close()


def test_the_other_may_have_more_samples_but_not_fewer(tmp_path, latents):
    values = {"tokens": torch.arange(15.0)[:, None].half()}
    more = make_store(tmp_path / "more", values, keys=["a", "b", *KEYS, "c"])
    found = Joined({"z": latents, "t": more}).gather(torch.tensor([3, 0]))
    assert found["t/tokens"].flatten().tolist() == [5, 2] and set(found) == {
        "z/mean", "z/label", "t/tokens",
    }  # fmt: skip
    fewer = tokens(tmp_path, SHUFFLED[2:])
    with pytest.raises(UserError, match=r"tokens has no sample 'image 0', 'image 5'"):
        Joined({"": latents, "t": fewer})


def test_stores_of_different_data_are_refused_naming_both(tmp_path, latents):
    other = tokens(tmp_path, digest="0123456789abcdef")
    with pytest.raises(UserError) as error:
        Joined({"": latents, "teacher": other})
    for part in (str(latents.path), str(other.path), "data data", "0123456789ab"):
        assert part in str(error.value)


def test_samples_unreadable_in_any_store_are_left_out(tmp_path):
    latents = make_store(tmp_path / "latents", LATENTS, keys=KEYS, unreadable={1: "broken"})
    teacher = tokens(tmp_path, unreadable={0: "broken", 2: "broken"})  # images 5 and 11
    joined = Joined({"": latents, "teacher": teacher})
    assert joined.readable.tolist() == [0, 2, 3, 4, 6, 7, 8, 9, 10] and len(joined) == 9
    every = dict.fromkeys(range(12), "broken")
    none = make_store(tmp_path / "none", LATENTS, keys=KEYS, unreadable=every)
    with pytest.raises(UserError, match="no sample could be read by all of the stores"):
        Joined({"": latents, "none": none})


def test_rows_may_be_given(tmp_path, latents):
    """As for texts, which are stored once and not per sample."""
    texts = make_store(tmp_path / "texts", {"embedding": torch.eye(3)}, digest="texts")
    of_sample = torch.tensor([0, 1, 2, 2, -1, 0, 0, 1, 1, 2, -1, 0])
    batches = StoreBatches(
        {"": latents, "text": texts}, batch_size=5, seed=0, rows={"text": of_sample}
    )
    assert batches.fingerprint["n"] == 10
    for batch in batches.epoch():
        assert torch.equal(batch["text/embedding"], torch.eye(3)[of_sample[batch["index"]]])
    for wrong in (of_sample[1:], of_sample + 1):
        with pytest.raises(UserError, match=r"rows of .*texts for 12 samples"):
            Joined({"": latents, "text": texts}, rows={"text": wrong})
    with pytest.raises(ValueError, match="rows of store 'txt'"):
        Joined({"": latents, "text": texts}, rows={"txt": of_sample})


def test_chosen_fields_in_the_order_chosen(tmp_path, latents):
    stores = {"": latents, "teacher": tokens(tmp_path)}
    joined = Joined(stores, fields=["teacher/tokens", "label"])
    assert list(joined.fields) == ["teacher/tokens", "label"]
    found = joined.gather(torch.tensor([7]))
    assert list(found) == ["teacher/tokens", "label"] and found["label"].tolist() == [7]
    with pytest.raises(UserError, match=r"no field 'tokens'.*'teacher/tokens'"):
        Joined(stores, fields=["tokens"])
    only = StoreBatches(stores, batch_size=5, seed=0, fields=["teacher/tokens"])
    assert all(set(batch) == {"index", "teacher/tokens"} for batch in only.epoch())


def test_names_must_tell_fields_apart(tmp_path, latents):
    other = make_store(tmp_path / "other", LATENTS | {"x/mean": LATENTS["mean"]}, keys=KEYS)
    with pytest.raises(ValueError, match="the same names"):
        Joined({"x": latents, "": other})
