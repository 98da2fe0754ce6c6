"""Stores at a URL: the same rows as beside us, within a limit of this machine's disk."""

import itertools
import pickle
import shutil
from pathlib import Path

import fsspec
import pytest
import torch

from helpers.stores import table, write
from latentsmith.data.order import order, windowed_order
from latentsmith.errors import UserError
from latentsmith.stores.base import open_store
from latentsmith.stores.layout import MANIFEST, shard_file
from latentsmith.stores.remote.cache import limit_bytes
from latentsmith.stores.remote.place import Place, is_url
from latentsmith.stores.remote.store import RemoteStore
from latentsmith.stores.remote.transfer import transfer
from latentsmith.stores.source import StoreBatches
from latentsmith.stores.verify import verify_store

ROWS = 40


@pytest.fixture(autouse=True)
def room(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    yield
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path) -> str:
    if request.param == "memory":
        return "memory://bucket/latents"
    return (tmp_path / "elsewhere" / "latents").as_uri()


def there(url: str, tmp_path: Path, stored: str = "float16"):
    """(the store beside us, the same at ``url``)."""
    near = write(tmp_path / f"near-{stored}", table(ROWS, stored), unreadable={3: "broken"})
    assert transfer(str(near.path), url) > 5
    return near, open_store(url)


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_rows_are_the_same_as_beside_us(url, tmp_path, stored):
    near, far = there(url, tmp_path, stored)
    assert isinstance(far, RemoteStore) and far.manifest == near.manifest
    assert list(far.keys) == list(near.keys) and far.unreadable == near.unreadable
    rows = torch.tensor([39, 0, 17, 17, 8, 9, 30])
    for name, values in near.gather(rows).items():
        assert torch.equal(far.gather(rows)[name], values), name
    again = pickle.loads(pickle.dumps(far))
    assert torch.equal(again.gather(rows)["label"], rows)
    assert verify_store(url).ok
    with pytest.raises(UserError, match="broken"):
        far.gather(torch.tensor([3]))


def test_only_shards_that_are_asked_for_are_fetched_and_only_once(url, tmp_path, monkeypatch):
    _, far = there(url, tmp_path)
    fetched = []
    fetch = Place.fetch
    monkeypatch.setattr(Place, "fetch", lambda self, n, t: fetched.append(n) or fetch(self, n, t))
    far.gather(torch.tensor([1, 10, 2]))
    far.gather(torch.tensor([11, 0]))
    assert fetched == ["shard-00000.safetensors", "shard-00001.safetensors"]
    far.close()
    far.gather(torch.tensor([0]))
    assert len(fetched) == 2  # still on this disk


def test_the_least_recently_used_shards_give_way(tmp_path):
    near, _ = there("memory://bucket/latents", tmp_path)
    size = shard_file(near.path, 0).stat().st_size
    far = RemoteStore("memory://bucket/latents", limit=2 * size)
    before = far.gather(torch.tensor([0]))["tokens"]
    for row in (10, 0, 20):  # shard 1, shard 0 again, shard 2: shard 1 was used longest ago
        far.close()
        far.gather(torch.tensor([row]))
    kept = {p.name for p in far.path.glob("shard-*")}
    assert kept == {"shard-00000.safetensors", "shard-00002.safetensors"}
    assert torch.equal(far.gather(torch.tensor([0]))["tokens"], before)


def test_another_store_at_the_same_place_is_not_taken_for_the_one_before(tmp_path):
    url, folder = "memory://bucket/latents", tmp_path / "near"
    rows = torch.arange(4, 12)
    for seed in (0, 1):  # of the same shapes: every file has the same size
        shutil.rmtree(folder, ignore_errors=True)
        near = write(folder, table(ROWS, "float16", seed))
        if seed:
            fsspec.filesystem("memory").rm(url, recursive=True)
        transfer(str(folder), url)
        far = open_store(url)
        assert torch.equal(far.gather(rows)["tokens"], near.gather(rows)["tokens"])


def test_batches_of_a_store_larger_than_the_disk_fetch_each_shard_once_an_epoch(
    tmp_path, monkeypatch
):
    near, _ = there("memory://bucket/latents", tmp_path)
    size = max(p.stat().st_size for p in near.path.glob("shard-*.safetensors"))
    far = RemoteStore("memory://bucket/latents", limit=4 * size)
    fetched = []
    fetch = Place.fetch
    monkeypatch.setattr(Place, "fetch", lambda self, n, t: fetched.append(n) or fetch(self, n, t))
    batches = StoreBatches(far, batch_size=3, seed=0, threads=0)
    assert batches.window == 2 and batches.fingerprint["window"] == 2
    epoch = list(itertools.islice(batches.iterate(), 13))  # 39 readable rows
    seen = torch.cat([batch["index"] for batch in epoch])
    assert sorted(seen.tolist()) == [row for row in range(ROWS) if row != 3]
    assert len(fetched) <= 5 + 2  # five shards; an edge row may lie in the one before
    resumed = next(batches.iterate(9))
    assert torch.equal(resumed["index"], epoch[3]["index"])


def test_a_store_that_fits_is_shuffled_whole(tmp_path):
    near, far = there("memory://bucket/latents", tmp_path)
    told = [StoreBatches(s, batch_size=8, seed=1, threads=0) for s in (near, far)]
    assert told[0].fingerprint == told[1].fingerprint
    first, second = (next(batches.iterate()) for batches in told)
    assert torch.equal(first["index"], second["index"])
    assert torch.equal(first["tokens"], second["tokens"])


def test_copying_goes_on_and_ends_with_the_manifest(url, tmp_path, monkeypatch):
    near = write(tmp_path / "near", table(ROWS))
    put, done = Place.put, []

    def failing(self, source, name):
        if len(done) == 3:
            raise UserError("the line is cut")
        done.append(name)
        put(self, source, name)

    monkeypatch.setattr(Place, "put", failing)
    with pytest.raises(UserError, match="cut"):
        transfer(str(near.path), url)
    with pytest.raises(UserError, match=r"latents (holds no store|is not finished)"):
        open_store(url)
    monkeypatch.setattr(Place, "put", lambda *args: done.append(args[2]) or put(*args))
    transfer(str(near.path), url)
    assert done[-1] == MANIFEST and len(done) == len(set(done))
    assert transfer(str(near.path), url) == 0
    back = tmp_path / "back"
    transfer(url, str(back))
    assert verify_store(back).ok and open_store(back).manifest == near.manifest


def test_texts_beside_the_rows_come_along(tmp_path):
    near = write(tmp_path / "near", table(ROWS), content="text")
    (near.path / "texts.jsonl").write_text("one")
    transfer(str(near.path), "memory://bucket/texts")
    far = open_store("memory://bucket/texts")
    assert (far.path / "texts.jsonl").read_text() == "one"
    assert not list(far.path.glob("shard-*"))


def test_mistakes_are_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"memory://no/where holds no store"):
        open_store("memory://no/where")
    with pytest.raises(UserError, match=r"no protocol s9:// is known"):
        open_store("s9://bucket/x")
    with pytest.raises(UserError, match=r"no finished store of shards at .*--to shards"):
        transfer(str(tmp_path), "memory://bucket/x")
    near = write(tmp_path / "a", table(ROWS))
    write(tmp_path / "b", table(ROWS, "float32"))
    transfer(str(near.path), "memory://bucket/x")
    with pytest.raises(UserError, match="memory://bucket/x holds another store"):
        transfer(str(tmp_path / "b"), "memory://bucket/x")
    with fsspec.open("memory://bucket/x/shard-00001.safetensors", "wb") as f:
        f.write(b"half")
    with pytest.raises(UserError, match=r"came with 4 bytes instead of [\d,]+: the store there"):
        open_store("memory://bucket/x").gather(torch.tensor([10]))
    monkeypatch.setenv("LATENTSMITH_REMOTE_GB", "plenty")
    with pytest.raises(UserError, match="'plenty': give gigabytes"):
        limit_bytes()


def test_what_is_a_url():
    assert is_url("s3://bucket/x") and is_url("memory://x")
    assert not any(map(is_url, ("runs/x", "/data/x", "C:/x", Path("s3://x"), "a://"[:2])))


def test_windowed_order_shuffles_a_few_blocks_at_a_time_and_every_epoch_anew():
    n, block = 53, 10
    first = windowed_order(n, 0, 0, n, block=block, blocks=2)
    assert sorted(first.tolist()) == list(range(n))
    window = first[:20] // block
    assert len(window.unique()) == 2 and not torch.equal(window.sort().values, window)
    second = windowed_order(n, 0, n, n, block=block, blocks=2)
    assert sorted(second.tolist()) == list(range(n)) and not torch.equal(first, second)
    across = windowed_order(n, 0, 40, 30, block=block, blocks=2)
    assert torch.equal(across, torch.cat([first[40:], second[:17]]))
    whole = windowed_order(n, 0, 0, n, block=block, blocks=6)
    assert len((whole[:20] // block).unique()) > 2
    assert not torch.equal(whole, order(n, 0, 0, n))
