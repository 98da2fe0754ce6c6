"""LMDB: the sources' files, a map that grows, and one process at a time."""

import os
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch

from helpers.stores import computing, keys_of, manifest_of, table, write
from latentsmith.errors import UserError
from latentsmith.stores.base import FieldSpec, StoreManifest, open_store
from latentsmith.stores.build import build_store
from latentsmith.stores.convert import convert_store
from latentsmith.stores.lmdb import LmdbStore
from latentsmith.stores.lmdb_writer import LmdbWriter
from latentsmith.stores.verify import verify_store

LATENT, TOKENS = FieldSpec((4, 8, 8), "float16"), FieldSpec((16, 12), "float16")
COUNT = 40


def foreign(path: Path, subdir: bool = True, both: bool = False) -> dict[str, np.ndarray]:
    """Written as the sources write: keys {id} and {id}_mid, raw float16, no manifest."""
    rng, values = np.random.default_rng(0), {}
    with lmdb.open(str(path), map_size=1 << 24, subdir=subdir) as env, env.begin(write=True) as txn:
        for i in range(12):
            name = f"n0144{i % 5}_{i}"
            values[name] = rng.standard_normal((4, 8, 8)).astype(np.float16)
            txn.put(name.encode(), values[name].tobytes())
            if both:
                txn.put(f"{name}_mid".encode(), np.full((16, 12), i, np.float16).tobytes())
    return values


@pytest.mark.parametrize("subdir", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("both", [False, True])
def test_the_sources_files_are_read(tmp_path, subdir, both):
    path = tmp_path / ("vae_latents_lmdb" if subdir else "latents.mdb")
    values = foreign(path, subdir, both)
    fields = {"latent": LATENT} | ({"tokens": TOKENS} if both else {})
    store = LmdbStore(path, fields=fields)
    assert list(store.keys) == sorted(values) and len(store) == 12
    found = store.gather(store.rows(["n01443_3", "n01440_10"]))
    assert np.array_equal(found["latent"][1].numpy(), values["n01440_10"])
    if both:
        assert found["tokens"][:, 3, 4].tolist() == [3, 10]
    assert verify_store(store).ok
    with pytest.raises(UserError, match="says nothing about its values: open it with LmdbStore"):
        open_store(path)
    shards = convert_store(store, tmp_path / "shards", "shards")
    assert np.array_equal(shards.gather(torch.tensor([0]))["latent"][0].numpy(), values["n01440_0"])
    assert verify_store(shards.path).ok


def test_teacher_tokens_of_the_sources(tmp_path):
    with lmdb.open(str(tmp_path / "t"), map_size=1 << 22) as env, env.begin(write=True) as txn:
        for i in range(5):
            txn.put(f"id{i}_mid".encode(), np.full((16, 12), i, np.float16).tobytes())
    store = LmdbStore(tmp_path / "t", fields={"tokens": TOKENS})
    assert list(store.keys) == [f"id{i}" for i in range(5)]
    assert store.manifest.content == "tokens"
    assert store.gather(torch.tensor([4]))["tokens"].unique().tolist() == [4]
    (problem,) = verify_store(store).problems
    assert problem == "tokens has a zero vector: sample 'id0'"


def test_a_strangers_records_must_fit_what_is_said_of_them(tmp_path):
    foreign(tmp_path / "f")
    with pytest.raises(
        UserError, match=r"'n01440_0' has 512 bytes, but \[4, 8, 8\] float32 are 1,024"
    ):
        LmdbStore(tmp_path / "f", fields={"latent": FieldSpec((4, 8, 8), "float32")})
    with pytest.raises(UserError, match="no record whose key ends as"):
        LmdbStore(tmp_path / "f", fields={"tokens": TOKENS})
    store = LmdbStore(tmp_path / "f", fields={"other": LATENT}, suffixes={"other": ""})
    assert len(store) == 12
    store.close()
    with lmdb.open(str(tmp_path / "f"), map_size=1 << 24) as env, env.begin(write=True) as txn:
        txn.put(b"n01441_1", b"short")
    with pytest.raises(UserError, match="latent of sample 'n01441_1' has 5 bytes"):
        store = LmdbStore(tmp_path / "f", fields={"latent": LATENT})
        store.gather(store.rows(["n01441_1"]))


def test_our_records_are_the_sources(tmp_path):
    """Somebody else's reader finds {id} and {id}_mid, raw float16."""
    latents, tokens = torch.randn(COUNT, 4, 8, 8), torch.randn(COUNT, 16, 12)
    known = {"latent": (latents, "float16"), "tokens": (tokens, "float16")}
    write(tmp_path / "s", known, backend="lmdb", content="latents").close()
    key = keys_of(COUNT)[23]
    with lmdb.open(str(tmp_path / "s"), readonly=True, lock=False) as env, env.begin() as txn:
        latent = np.frombuffer(txn.get(key.encode()), np.float16).reshape(4, 8, 8)
        token = np.frombuffer(txn.get(f"{key}_mid".encode()), np.float16).reshape(16, 12)
    assert np.array_equal(latent, latents[23].half().numpy())
    assert np.array_equal(token, tokens[23].half().numpy())


def test_the_map_grows_as_needed(tmp_path):
    values = torch.randn(200, 1000)
    manifest = StoreManifest("vectors", {"vector": FieldSpec((1000,), "float32")}, 200, {}, {})
    keys = [str(i) for i in range(200)]
    writer = LmdbWriter(tmp_path / "s", manifest, keys, rows_per_shard=50, map_size=1 << 16)
    sizes = []
    for shard in writer.missing():
        rows = writer.positions(shard)
        writer.write(shard, {"vector": values[rows.start : rows.stop]})
        sizes.append(writer._env.info()["map_size"])
    assert writer.finish()
    assert sizes[0] > 1 << 16 and sizes[-1] > 800_000 and sizes[-1] < 4_000_000
    assert torch.equal(open_store(tmp_path / "s").gather(torch.arange(200))["vector"], values)
    assert verify_store(tmp_path / "s").ok


def test_a_map_that_is_too_small_for_what_is_there_grows_too(tmp_path):
    """Going on in a file that is larger than the map asked for."""
    known = table(COUNT)
    keys, manifest = keys_of(COUNT), manifest_of(known)
    for size in (1 << 22, 1 << 14):
        writer = LmdbWriter(tmp_path / "s", manifest, keys, rows_per_shard=9, map_size=size)
        for shard in writer.missing()[:3]:
            rows = writer.positions(shard)
            writer.write(shard, {n: v[rows.start : rows.stop] for n, (v, _) in known.items()})
        writer.close()
    writer = LmdbWriter(tmp_path / "s", manifest, keys, rows_per_shard=9)
    assert writer.finish() and verify_store(tmp_path / "s").ok


def test_a_chunk_and_its_sidecar_are_one_transaction(tmp_path, monkeypatch):
    """A kill between the two would leave rows nobody counts, or a count without rows."""
    put, seen = LmdbWriter._put, []

    def watched(self, records):
        seen.append([key for key, _ in records])
        put(self, records)

    monkeypatch.setattr(LmdbWriter, "_put", watched)
    write(tmp_path / "s", table(COUNT), backend="lmdb")
    chunks = [keys for keys in seen if any(b":chunk:" in key for key in keys)]
    assert [len(keys) for keys in chunks] == [9 * 3 + 1] * 4 + [4 * 3 + 1]


def test_several_writers_are_refused(tmp_path):
    known = table(COUNT)
    with pytest.raises(UserError, match="2 processes cannot write one LMDB store: write shards"):
        build_store(
            tmp_path / "s", manifest_of(known), keys_of(COUNT), computing(known),
            backend="lmdb", rank=1, world_size=2,
        )  # fmt: skip


def test_keys_that_lmdb_cannot_hold_or_tell_apart_are_refused(tmp_path):
    known = table(2)

    def make(keys, known=known):
        LmdbWriter(tmp_path / "s", manifest_of(known), keys)

    with pytest.raises(UserError, match=r"the key 'x+'… has 505 bytes, and LMDB takes 504"):
        make(["a", "x" * 505])
    with pytest.raises(UserError, match="would share a record"):
        make(["a", "a_mid"], {"latent": known["vector"], "tokens": known["tokens"]})
    with pytest.raises(UserError, match="must not begin with __latentsmith__"):
        make(["a", "__latentsmith__:manifest"])


def test_a_strangers_file_is_not_written_into(tmp_path):
    foreign(tmp_path / "f")
    known = table(2)
    with pytest.raises(UserError, match="an LMDB file of somebody else"):
        LmdbWriter(tmp_path / "f", manifest_of(known), ["a", "b"])


def test_a_file_that_is_no_lmdb_is_told(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(UserError, match="cannot be opened as LMDB"):
        open_store(tmp_path / "s")


def test_a_child_opens_a_store_its_parent_has_open(tmp_path):
    """A store made in the child, not inherited: LMDB would say the file is open already."""
    store = write(tmp_path / "s", table(COUNT), backend="lmdb")
    want = store.gather(torch.arange(3))["label"].tolist()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = (
                0
                if open_store(tmp_path / "s").gather(torch.arange(3))["label"].tolist() == want
                else 2
            )
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.gather(torch.arange(3))["label"].tolist() == want


def test_lmdb_is_imported_only_when_it_is_needed():
    modules = "latentsmith.stores.verify, latentsmith.stores.convert, latentsmith.stores.lmdb"
    code = f"import sys, {modules}; print('lmdb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
