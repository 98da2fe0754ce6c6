"""Which backend a folder holds."""

from pathlib import Path

from latentsmith.errors import UserError
from latentsmith.stores.base import FeatureStore
from latentsmith.stores.layout import CLAIM, MANIFEST, Layout, committed, read_json

AGAIN = "run the command that writes it again: it goes on where it stopped"


def open_folder(path: Path) -> FeatureStore:
    """See `latentsmith.stores.base.open_store`."""
    if (path / MANIFEST).is_file():
        from latentsmith.stores.shards import ShardStore

        return ShardStore(path)
    if (path / CLAIM).is_file():
        raise UserError(unfinished(path))
    if (path / "data.mdb").is_file() or path.suffix in (".mdb", ".lmdb"):
        from latentsmith.stores.lmdb import LmdbStore

        return LmdbStore(path)
    raise UserError(_nothing(path))


def unfinished(path: Path) -> str:
    """What is missing in a store that was begun."""
    claim = read_json(path / CLAIM, "the claim")
    try:
        layout = Layout(claim["manifest"]["count"], claim["rows_per_shard"])
    except (KeyError, TypeError) as error:
        raise UserError(f"the claim {path / CLAIM} is damaged ({error!r}): remove {path}") from None
    missing = sum(committed(path, shard) is None for shard in range(layout.shards))
    owed = f"{missing} of {layout.shards} shards are missing"
    return f"the store {path} is not finished, {owed}: {AGAIN}"


def _nothing(path: Path) -> str:
    if not path.exists():
        return f"no store at {path}: no such folder. `latentsmith cache` writes stores"
    return (
        f"no store at {path}: neither {MANIFEST} nor {CLAIM} in it. `latentsmith cache` writes "
        "stores"
    )
