"""What every store keeps: the same rows in, the same rows out, in whatever process asks."""

import multiprocessing
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from helpers.stores import computing, keys_of, manifest_of, table, write
from latentsmith.errors import UserError
from latentsmith.stores import shards
from latentsmith.stores.base import FeatureStore, open_store
from latentsmith.stores.build import build_store
from latentsmith.stores.convert import convert_store
from latentsmith.stores.verify import verify_store

BACKENDS = ["shards", "lmdb"]
STORED = ["float32", "float16", "bfloat16", "int8", "int64"]
COUNT = 40


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(params=[0, 1 << 25], ids=["mapped", "in memory"])
def small_tables(request, monkeypatch):
    monkeypatch.setattr(shards, "IN_MEMORY", request.param)


def expected(values: torch.Tensor, stored: str) -> torch.Tensor:
    if stored == "int8":  # within half a step of each channel's range
        return values.half().float()
    return values.to(getattr(torch, stored))


def tolerance(values: torch.Tensor, stored: str) -> float:
    if stored != "int8":
        return 0.0
    flat = (
        values.half().float().reshape(len(values), -1, values.shape[-1] if values.ndim > 2 else 1)
    )
    return float((flat.amax(1) - flat.amin(1)).max()) / 255 / 2 + 2e-3 * float(values.abs().max())


@pytest.mark.parametrize("stored", STORED)
def test_gather_is_a_naive_loop(tmp_path, backend, stored, small_tables):
    known = table(COUNT, stored)
    store = write(tmp_path / "s", known, backend=backend)
    assert isinstance(store, FeatureStore)
    assert len(store) == COUNT and store.keys == keys_of(COUNT)
    rows = torch.tensor([39, 0, 8, 9, 9, 17, 26, 0])
    found = store.gather(rows)
    assert set(found) == set(known)
    for name, (values, kind) in known.items():
        spec = store.manifest.fields[name]
        assert found[name].dtype == spec.dtype and found[name].shape == (8, *spec.shape)
        for i, row in enumerate(rows.tolist()):  # the naive loop
            want, own = expected(values[row], kind), tolerance(values, kind)
            torch.testing.assert_close(found[name][i].to(want), want, rtol=0, atol=own)
    assert store.gather(torch.empty(0, dtype=torch.int64))["label"].shape == (0,)


def test_all_finite_numbers_come_back_bit_for_bit(tmp_path, backend):
    for stored, whole in [("float16", torch.int16), ("bfloat16", torch.int16)]:
        bits = torch.arange(-(2**15), 2**15, 11).to(whole)
        values = bits.view(getattr(torch, stored))
        values = values[values.isfinite()].reshape(-1, 1)[: 64 * 20].reshape(64, 20)
        known = {"vector": (values, stored)}
        store = write(tmp_path / stored, known, backend=backend, content="vectors")
        found = store.gather(torch.arange(64))["vector"]
        assert torch.equal(found.view(whole), values.view(whole)), "also signed zeros, subnormals"


@pytest.mark.parametrize("stored", ["bfloat16", "int8"])
def test_buffers_are_filled_in_place(tmp_path, backend, stored, small_tables):
    store = write(tmp_path / "s", table(COUNT, stored), backend=backend)
    fields = store.manifest.fields.items()
    out = {n: torch.full((5, *s.shape), 3, dtype=s.dtype) for n, s in fields}
    places = {n: t.data_ptr() for n, t in out.items()}
    for rows in (torch.tensor([1, 38, 4, 20, 1]), torch.tensor([0, 9, 18, 27, 36])):
        fresh = store.gather(rows)
        found = store.gather(rows, out=out)
        for name, tensor in found.items():
            assert tensor.data_ptr() == places[name]
            assert torch.equal(tensor, fresh[name])
    assert set(store.gather(rows, out, fields=["label"])) == {"label"}
    with pytest.raises(ValueError, match="buffer of 'label'"):
        store.gather(rows, out={**out, "label": out["label"][:4]}, fields=["label"])
    with pytest.raises(ValueError, match="buffer of 'label'"):
        store.gather(rows, out={**out, "label": out["label"].float()}, fields=["label"])
    with pytest.raises(ValueError, match="no buffer for field 'vector'"):
        store.gather(rows, out={"label": out["label"]}, fields=["vector"])


def test_fresh_batches_do_not_share_memory_with_the_store(tmp_path, backend):
    store = write(tmp_path / "s", table(COUNT), backend=backend)
    rows = torch.arange(5)
    store.gather(rows)["vector"].fill_(100)
    assert store.gather(rows)["vector"].abs().max() < 100


def test_what_is_not_there_is_named(tmp_path, backend):
    store = write(tmp_path / "s", table(COUNT), backend=backend)
    key = keys_of(COUNT)[12]
    assert store.rows([key, keys_of(COUNT)[3]]).tolist() == [12, 3]
    with pytest.raises(UserError, match=f"no sample '{key}x'. Did you mean '{key}'"):
        store.rows([key, f"{key}x"])
    with pytest.raises(UserError, match=r"row 40 of .*: it has rows 0 to 39"):
        store.gather(torch.tensor([3, 40]))
    with pytest.raises(UserError, match="row -1 "):
        store.gather(torch.tensor([-1]))
    with pytest.raises(UserError, match=r"no field 'token'\. Did you mean 'tokens'"):
        store.gather(torch.tensor([3]), fields=["token"])
    with pytest.raises(ValueError, match="int64"):
        store.gather(torch.tensor([1.0]))


def test_unreadable_samples_are_named_and_never_read(tmp_path, backend):
    # a whole batch, a whole shard's end, and single ones
    broken = {row: f"cannot decode {row}" for row in (0, 4, 5, 6, 7, 8, 22, 39)}
    store = write(tmp_path / "s", table(COUNT, "int8"), backend=backend, unreadable=broken)
    assert dict(store.unreadable) == broken
    with pytest.raises(UserError, match=r"no values of sample 'n034_größe22'.*cannot decode 22"):
        store.gather(torch.tensor([1, 22]))
    with pytest.raises(UserError, match="größe39"):
        store.rows([keys_of(COUNT)[39]])
    kept = torch.tensor([r for r in range(COUNT) if r not in broken])
    assert store.gather(kept)["label"].tolist() == kept.tolist()
    assert verify_store(tmp_path / "s").ok


def test_all_samples_unreadable(tmp_path, backend):
    broken = dict.fromkeys(range(COUNT), "gone")
    store = write(tmp_path / "s", table(COUNT), backend=backend, unreadable=broken)
    assert len(store.unreadable) == COUNT and verify_store(tmp_path / "s").ok


class Rows(torch.utils.data.Dataset):
    """A store as a data loader sees it."""

    def __init__(self, store: FeatureStore):
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitems__(self, rows: list[int]) -> list[dict[str, torch.Tensor]]:
        found = self.store.gather(torch.tensor(rows))
        return [{n: v[i] for n, v in found.items()} for i in range(len(rows))]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_may_use_a_store_that_was_open_here(tmp_path, backend, start, monkeypatch):
    monkeypatch.setattr(shards, "IN_MEMORY", 0)
    known = table(COUNT)
    store = write(tmp_path / "s", known, backend=backend)
    before = store.gather(torch.arange(3))  # open in this process
    loader = DataLoader(
        Rows(store),  # type: ignore[arg-type]
        batch_size=8,
        num_workers=2 if start == "fork" else 1,  # a fresh one takes seconds to start
        multiprocessing_context=multiprocessing.get_context(start),
    )
    batches = list(loader)
    label = torch.cat([b["label"] for b in batches])
    assert label.tolist() == list(range(COUNT))
    vectors = torch.cat([b["vector"] for b in batches])
    assert torch.equal(vectors, known["vector"][0].half())
    assert torch.equal(store.gather(torch.arange(3))["vector"], before["vector"])


def test_pickles_are_small_and_open_nothing(tmp_path, backend):
    store = write(tmp_path / "s", table(2000), backend=backend, rows_per_shard=500)
    store.gather(torch.arange(2000))
    raw = pickle.dumps(store)
    assert len(raw) < 4000, "neither keys nor values travel"
    again = pickle.loads(raw)
    assert torch.equal(
        again.gather(torch.tensor([7]))["vector"], store.gather(torch.tensor([7]))["vector"]
    )


def test_a_closed_store_opens_itself_again(tmp_path, backend):
    store = write(tmp_path / "s", table(COUNT), backend=backend)
    before = store.gather(torch.arange(COUNT))
    other = open_store(tmp_path / "s")  # two at once in one process
    store.close()
    store.close()
    assert other.keys[3] == store.keys[3]
    for name, values in store.gather(torch.arange(COUNT)).items():
        assert torch.equal(values, before[name])


def test_threads_may_gather_at_once(tmp_path, backend, small_tables):
    from concurrent.futures import ThreadPoolExecutor

    known = table(COUNT)
    store = open_store(write(tmp_path / "s", known, backend=backend).path)
    batches = [torch.randint(0, COUNT, (16,)) for _ in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda rows: store.gather(rows)["label"], batches))
    assert all(torch.equal(a, b) for a, b in zip(found, batches, strict=True))


def test_a_store_that_is_not_finished_is_refused_with_the_way_on(tmp_path, backend):
    known = table(COUNT)
    good = computing(known)

    def compute(rows):
        if 20 in rows:
            raise KeyboardInterrupt
        return good(rows)

    path, manifest = tmp_path / "s", manifest_of(known)
    arguments = {"batch_size": 3, "rows_per_shard": 9, "backend": backend}
    with pytest.raises(KeyboardInterrupt):
        build_store(path, manifest, keys_of(COUNT), compute, **arguments)
    with pytest.raises(UserError, match=r"not finished, 3 of 5 .* are missing: run the command"):
        open_store(path)
    asked = []

    def counted(rows):
        asked.extend(rows.tolist())
        return good(rows)

    assert build_store(path, manifest, keys_of(COUNT), counted, **arguments)
    assert asked == list(range(18, 40)), "what was committed is not computed again"
    assert torch.equal(open_store(path).gather(torch.arange(COUNT))["label"], torch.arange(COUNT))
    asked.clear()
    assert build_store(path, manifest, keys_of(COUNT), counted, **arguments)
    assert not asked


def test_another_store_at_the_same_place_is_refused_naming_both(tmp_path, backend):
    known = table(COUNT)
    write(tmp_path / "s", known, backend=backend)
    with pytest.raises(UserError, match=r"manifest.extra.unit: None there, True wanted"):
        write(tmp_path / "s", known, backend=backend, unit=True)
    manifest, keys = manifest_of(known), keys_of(COUNT)
    with pytest.raises(UserError, match=r"holds another store: keys: "):
        build_store(
            tmp_path / "s",
            manifest,
            keys[::-1],
            computing(known),
            rows_per_shard=9,
            backend=backend,
        )


def test_keys_must_be_unique(tmp_path, backend):
    known = table(3)
    with pytest.raises(UserError, match=r"1 keys occur more than once, e\.g\. 'a'"):
        build_store(
            tmp_path / "s", manifest_of(known), ["a", "b", "a"], computing(known), backend=backend
        )
    with pytest.raises(UserError, match="key of row 1 is empty"):
        build_store(
            tmp_path / "s", manifest_of(known), ["a", "", "c"], computing(known), backend=backend
        )


@pytest.mark.parametrize("stored", STORED)
def test_converted_there_and_back(tmp_path, backend, stored):
    known, broken = table(COUNT, stored), {5: "gone", 30: "gone too"}
    store = write(tmp_path / "s", known, backend=backend, unreadable=broken)
    (other,) = set(BACKENDS) - {backend}
    there = convert_store(store, tmp_path / "there", other)
    assert verify_store(tmp_path / "there").ok
    back = convert_store(tmp_path / "there", tmp_path / "back", backend)
    assert there.manifest == back.manifest == store.manifest
    assert there.keys == back.keys == store.keys and dict(there.unreadable) == broken
    kept = torch.tensor([r for r in range(COUNT) if r not in broken])
    for name, values in store.gather(kept).items():
        step = 2 * tolerance(known[name][0], known[name][1])
        torch.testing.assert_close(there.gather(kept)[name], values, rtol=0, atol=step)
        torch.testing.assert_close(back.gather(kept)[name], values, rtol=0, atol=2 * step)
    with pytest.raises(UserError, match="is the store to convert"):
        convert_store(store, tmp_path / "s", other)


def test_values_that_cannot_be_kept_are_refused_naming_the_sample(tmp_path, backend):
    for what, value, message in [
        ("nan", float("nan"), "is NaN or infinite"),
        ("inf", float("-inf"), "is NaN or infinite"),
        ("large", 7e4, "is NaN or infinite, or beyond the range of float16"),
    ]:
        known = table(COUNT)
        known["vector"][0][21, 3] = value
        with pytest.raises(UserError, match=f"vector of sample 'n027_größe21' {message}"):
            write(tmp_path / what, known, backend=backend)
    known = table(COUNT)
    known["tokens"][0][21, 3] = 0
    with pytest.raises(UserError, match="tokens of sample 'n027_größe21': token 3 is zero"):
        write(tmp_path / "zero", known, backend=backend)
    known["tokens"][0][22:30] = 0  # nobody asks what an unreadable sample holds
    broken = dict.fromkeys(range(21, 30), "gone")
    assert write(tmp_path / "zero", known, backend=backend, unreadable=broken)


def test_a_place_without_a_store_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no store at .*nowhere: no such folder"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither manifest"):
        open_store(tmp_path)
