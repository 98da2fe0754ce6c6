"""Damaging files, and campaigns that damage stores."""

import random
import shutil
from collections import Counter
from pathlib import Path

import torch

from faults.harm import told_file
from faults.writing import FEW, Store
from helpers.nursery import Nursery
from helpers.stores import table, write
from latentsmith.stores.base import FeatureStore, open_store
from latentsmith.stores.verify import verify_store


def flipped(raw: bytes, rng: random.Random) -> bytes:
    """One bit is another, not in what is just empty."""
    at = rng.choice([place for place, byte in enumerate(raw) if byte])
    return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]


def cut(raw: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return raw[: rng.randrange(len(raw))]


DAMAGES = {"flipped": flipped, "cut": cut}


def damage_shards(folder: Path, damage: str, *, count: int, seed: int = 0) -> Counter[str]:
    """Harm any file of a store of shards: verification finds it and names file or shard, or else
    no value is another. AssertionError if not."""
    known, rng, found = table(FEW), random.Random(seed), Counter[str]()
    write(folder / "good", known, rows_per_shard=4)
    for _ in range(count):
        path = Path(shutil.copytree(folder / "good", folder / "bad"))
        file = rng.choice(sorted(path.iterdir()))
        file.write_bytes(DAMAGES[damage](file.read_bytes(), rng))
        result = verify_store(path)
        if result.ok:
            _same(open_store(path))
        else:
            number = file.stem.rsplit("-")[-1].lstrip("0") or "0"  # shard-00001.json → 1
            text = "\n".join(result.problems)
            assert file.name in text or f"shard {number}" in text or "keys" in text, text
        found["harmless" if result.ok else "found"] += 1
        shutil.rmtree(path)
    return found


def _same(store: FeatureStore) -> None:
    rows = torch.tensor([row for row in range(FEW) if row not in store.unreadable])
    for name, (values, _) in table(FEW).items():
        wanted = values[rows].to(store.manifest.fields[name].dtype)
        assert torch.equal(store.gather(rows)[name], wanted), name


def damage_lmdb(
    nursery: Nursery, folder: Path, damage: str, *, count: int, seed: int = 1
) -> Counter[str]:
    """Harm the file of an LMDB store: whoever verifies it is not killed by that, and what is called
    good is good. In processes of their own, since LMDB has no checksums and believes its pages."""
    store = Store(nursery, folder / "good", "lmdb", FEW)
    assert store.go()
    used = (store.path / "data.mdb").read_bytes().rstrip(b"\0")
    rng, found, path = random.Random(seed), Counter[str](), folder / "bad"
    for _ in range(count):
        path.mkdir()
        (path / "data.mdb").write_bytes(DAMAGES[damage](used, rng))
        code = nursery.run("faults.harm:verify_quietly", str(path))
        assert code in (0, 2), f"{code}: {nursery.said()}"
        assert code == 0 or str(path) in told_file(path).read_text()
        found["found" if code else "harmless"] += 1
        shutil.rmtree(path)
    return found
