"""`verify_store` finds what is wrong, and says which sample or shard."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.stores import computing, keys_of, manifest_of, table, write
from latentsmith.errors import UserError
from latentsmith.stores import encode
from latentsmith.stores.base import open_store
from latentsmith.stores.build import build_store
from latentsmith.stores.layout import KEYS, MANIFEST, seal, shard_file, sidecar_file
from latentsmith.stores.verify import discard, verify_store
from latentsmith.utils.digest import state_digest

COUNT = 40


@pytest.fixture(params=["shards", "lmdb"])
def backend(request):
    return request.param


def test_a_good_store_has_no_problems(tmp_path, backend):
    seen = []
    write(tmp_path / "s", table(COUNT), backend=backend, unreadable={3: "gone"})
    found = verify_store(tmp_path / "s", progress=lambda *state: seen.append(state))
    assert found.ok and found.rows == COUNT and found.unreadable == 1 and found.problems == []
    assert seen == [(9, 40), (18, 40), (27, 40), (36, 40), (40, 40)]
    found.raise_for_problems()
    assert verify_store(open_store(tmp_path / "s")).ok


@pytest.mark.parametrize("at", ["values", "header", "end"])
def test_a_changed_byte_is_found_wherever_it_is(tmp_path, at):
    write(tmp_path / "s", table(COUNT))
    file = shard_file(tmp_path / "s", 2)
    raw = bytearray(file.read_bytes())
    place = {"values": -5, "header": 20, "end": None}[at]
    if place is None:
        raw = raw[:-1]
    else:
        raw[place] ^= 1
    file.write_bytes(raw)
    found = verify_store(tmp_path / "s")
    assert not found.ok and found.damaged == [2]
    assert {
        "values": "shard 2 (rows 18 to 26) does not match its checksum",
        "end": "bytes instead",
    }.get(at, "is damaged") in found.problems[0]
    with pytest.raises(UserError, match="  "):
        found.raise_for_problems()


def test_every_bit_of_a_shards_values_counts(tmp_path):
    write(tmp_path / "s", table(COUNT, "int8"), rows_per_shard=20)
    file = shard_file(tmp_path / "s", 1)
    good = file.read_bytes()
    values = range(8 + int.from_bytes(good[:8], "little"), len(good))
    for place in values[:: len(values) // 60]:
        raw = bytearray(good)
        raw[place] ^= 0x10
        file.write_bytes(raw)
        assert not verify_store(tmp_path / "s").ok, place
    file.write_bytes(good)
    assert verify_store(tmp_path / "s").ok


def test_a_missing_shard_is_found_and_only_it_is_made_again(tmp_path):
    known = table(COUNT)
    write(tmp_path / "s", known)
    shard_file(tmp_path / "s", 1).unlink()
    found = verify_store(tmp_path / "s")
    assert found.damaged == [1] and "shard-00001.safetensors is missing" in found.problems[0]
    discard(found)
    asked, good = [], computing(known)

    def compute(rows):
        asked.extend(rows.tolist())
        return good(rows)

    with pytest.raises(UserError, match="1 of 5 shards are missing"):
        open_store(tmp_path / "s")
    assert build_store(tmp_path / "s", manifest_of(known), keys_of(COUNT), compute)
    assert asked == list(range(9, 18)) and verify_store(tmp_path / "s").ok


def test_discard_leaves_a_good_store_alone(tmp_path):
    write(tmp_path / "s", table(COUNT))
    before = {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()}
    discard(verify_store(tmp_path / "s"))
    assert {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()} == before


def forge(path: Path, shard: int, change) -> None:
    """Change values and all checksums with them: what only looking at the values can find."""
    tensors = load_file(shard_file(path, shard))
    tensors = {name: value.clone() for name, value in tensors.items()}
    change(tensors)
    save_file(tensors, shard_file(path, shard))
    final = json.loads((path / MANIFEST).read_text())
    final["shards"][shard]["checksum"] = state_digest(tensors)
    del final["seal"]
    (path / MANIFEST).write_text(json.dumps(seal(final)))


def unit_table(stored="float16"):
    known = table(COUNT, stored)
    values, _ = known["tokens"]
    tokens = torch.nn.functional.normalize(values, dim=-1)
    return {"tokens": (tokens, stored), "label": known["label"]}


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "int8"])
def test_unit_tokens_may_be_rounded_but_not_scaled(tmp_path, stored):
    write(tmp_path / "s", unit_table(stored), unit=True)
    assert verify_store(tmp_path / "s").ok
    known = unit_table(stored)
    known["tokens"][0][13, 2] *= {"float32": 1.001, "int8": 1.1}.get(stored, 1.02)
    write(tmp_path / "t", known, unit=True)
    (problem,) = verify_store(tmp_path / "t").problems
    assert problem.startswith("tokens should be of unit length and is not (length 1.")
    assert problem.endswith(f"sample '{keys_of(COUNT)[13]}'")
    write(tmp_path / "u", known)
    assert verify_store(tmp_path / "u").ok, "no unit length was promised"


def test_zero_and_not_finite_vectors_are_found_and_the_sample_named(tmp_path):
    write(tmp_path / "s", unit_table(), unit=True)

    def zero(tensors):
        tensors["tokens"][3, 5] = 0

    def nan(tensors):
        tensors["tokens"][0, 0, 0] = float("nan")

    forge(tmp_path / "s", 1, zero)
    forge(tmp_path / "s", 3, nan)
    found = verify_store(tmp_path / "s")
    keys = keys_of(COUNT)
    assert found.problems == [
        f"tokens has a zero vector: sample '{keys[12]}'",
        f"tokens is NaN or infinite: sample '{keys[27]}'",
    ]
    assert found.damaged == []


def test_zero_latents_are_no_problem_and_text_is_looked_at_under_its_mask(tmp_path, monkeypatch):
    values = torch.randn(COUNT, 4, 3)
    values[5] = 0
    write(tmp_path / "latents", {"mean": (values, "float16")}, content="latents")
    assert verify_store(tmp_path / "latents").ok
    mask = torch.ones(COUNT, 4, dtype=torch.int64)
    values = torch.randn(COUNT, 4, 3)
    values[7, 2:] = 0
    mask[7, 2:] = 0
    known = {"embedding": (values, "float16"), "mask": (mask, "int64")}
    write(tmp_path / "text", known, content="text")
    assert verify_store(tmp_path / "text").ok
    values[8, 1] = 0
    write(tmp_path / "bad", known, content="text")
    (problem,) = verify_store(tmp_path / "bad").problems
    assert problem == f"embedding has a zero vector: sample '{keys_of(COUNT)[8]}'"


def test_unreadable_rows_are_not_looked_at(tmp_path, backend):
    write(tmp_path / "s", unit_table(), backend=backend, unit=True, unreadable={4: "gone"})
    assert verify_store(tmp_path / "s").ok


def test_an_edited_manifest_and_foreign_keys_are_found(tmp_path):
    write(tmp_path / "s", table(COUNT))
    write(tmp_path / "t", table(COUNT, seed=1))
    final = json.loads((tmp_path / "s" / MANIFEST).read_text())
    final["manifest"]["encoder"]["kind"] = "better"
    (tmp_path / "s" / MANIFEST).write_text(json.dumps(final))
    assert "edited" in verify_store(tmp_path / "s").problems[0]
    del final["seal"]  # as stores had none once
    (tmp_path / "s" / MANIFEST).write_text(json.dumps(final))
    assert "edited" in verify_store(tmp_path / "s").problems[0]
    keys = load_file(tmp_path / "t" / KEYS)
    text = keys["text"].clone()
    text[3] += 1
    save_file(keys | {"text": text}, tmp_path / "t" / KEYS)
    found = verify_store(tmp_path / "t")
    assert any("not those the manifest was written with" in p for p in found.problems)
    for rows in (keys["rows"].flip(0), keys["rows"] + 2**20):
        save_file(keys | {"rows": rows.contiguous()}, tmp_path / "t" / KEYS)
        found = verify_store(tmp_path / "t")
        assert any("are not found where they are" in p for p in found.problems)


def test_values_and_sidecars_of_two_stores_do_not_mix(tmp_path):
    write(tmp_path / "s", table(COUNT))
    write(tmp_path / "t", table(COUNT, seed=1))
    shard_file(tmp_path / "t", 1).replace(shard_file(tmp_path / "s", 1))
    assert "shard 1" in verify_store(tmp_path / "s").problems[0]
    assert sidecar_file(tmp_path / "s", 1).exists()


def test_a_store_that_cannot_be_opened_is_a_problem_and_no_store_an_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        verify_store(tmp_path / "nowhere")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / MANIFEST).write_text("{")
    found = verify_store(tmp_path / "s")
    assert not found.ok and "is damaged" in found.problems[0]


def test_lmdb_values_are_checked_against_their_checksums(tmp_path):
    import lmdb

    write(tmp_path / "s", table(COUNT), backend="lmdb").close()
    key = f"{keys_of(COUNT)[20]}_vector".encode()
    with lmdb.open(str(tmp_path / "s"), map_size=1 << 26) as env, env.begin(write=True) as txn:
        value = bytearray(txn.get(key))
        value[0] ^= 1
        txn.put(key, bytes(value))
    assert "shard 2 (rows 18 to 26) does not match" in verify_store(tmp_path / "s").problems[0]
    with lmdb.open(str(tmp_path / "s"), map_size=1 << 26) as env, env.begin(write=True) as txn:
        txn.delete(key)
    (problem,) = verify_store(tmp_path / "s").problems
    assert problem.endswith(f"has no vector of sample '{keys_of(COUNT)[20]}'")


def test_encoding_is_refused_for_the_callers_mistakes(tmp_path):
    known = table(4)
    manifest, keys = manifest_of(known), keys_of(4)
    values = {n: v for n, (v, _) in known.items()}
    with pytest.raises(ValueError, match=r"fields \['label'\], not"):
        encode.encode(manifest, keys, range(4), {"label": values["label"]}, {})
    with pytest.raises(ValueError, match=r"vector must be \[4, 7\] to be stored as float16"):
        encode.encode(manifest, keys, range(4), values | {"vector": values["vector"][:3]}, {})
    with pytest.raises(ValueError, match="label must be"):
        encode.encode(manifest, keys, range(4), values | {"label": values["label"].float()}, {})
    with pytest.raises(ValueError, match=r"unreadable rows \[9\]"):
        encode.encode(manifest, keys, range(4), values, {9: "gone"})
    large = values | {"vector": values["vector"].double() * 1e6}
    with pytest.raises(
        UserError, match=r"reaches .*, beyond the range of torch\.float16: store it"
    ):
        encode.encode(manifest, keys, range(4), large, {})
