"""Two real processes fill one store: each its own shards, the same store as one process makes."""

import time
from pathlib import Path

import pytest
import torch

from helpers.ranks import run_ranks
from helpers.tiny_models import tiny_autoencoder
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.data.memory import MemoryDataset
from latentsmith.data.transforms import TransformConfig
from latentsmith.errors import UserError
from latentsmith.stores.base import open_store
from latentsmith.stores.contents import fill
from latentsmith.stores.latents import latent_contents

COUNT, PER_SHARD = 23, 4


def contents(model: str, count: int = COUNT):
    noise = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=noise)
    data = MemoryDataset(images, name="noise/train")
    autoencoder = KLAutoencoderConfig(source=model).build()
    return latent_contents(
        autoencoder, data, TransformConfig(resolution=16).build(), what="sample", dtype="float32"
    )


def work(rank: int, world_size: int, folder: str) -> dict[str, object]:
    made = contents(f"{folder}/model")
    asked: list[int] = []
    compute = made.compute

    def noted(rows):
        asked.extend(rows.tolist())
        return compute(rows)

    made = type(made)(made.manifest, made.keys, noted)
    ranks = {"rank": rank, "world_size": world_size, "rows_per_shard": PER_SHARD}
    store = fill(Path(folder) / "store", made, batch_size=3, **ranks)
    found = {"rows": asked, "first": store.gather(torch.tensor([0, COUNT - 1]))["latent"]}
    few = fill(Path(folder) / "few", contents(f"{folder}/model", 1), **ranks)
    found["few"] = few.gather(torch.tensor([0]))["latent"]
    mark = Path(folder) / "broken/failed-1"
    try:  # one rank fails: all are told why
        last = waiting_for(mark, compute) if rank == 0 else fail
        made = type(made)(made.manifest, made.keys, last)
        fill(Path(folder) / "broken", made, batch_size=3, **ranks)
    except UserError as error:
        found["error"] = str(error)
    return found


def fail(rows):
    raise UserError("no more paper")


def waiting_for(mark: Path, compute):
    """``compute``, once the other has failed: it must not find its shards made already."""

    def late(rows):
        end = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < end:
            time.sleep(0.002)
        return compute(rows)

    return late


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    tiny_autoencoder(folder / "model")
    return folder, run_ranks(work, 2, str(folder))


def test_every_row_is_computed_once_and_every_shard_by_one(outcome):
    _, results = outcome
    rows = [found["rows"] for found in results]
    assert sorted(rows[0] + rows[1]) == list(range(COUNT))
    shards = [{row // PER_SHARD for row in some} for some in rows]
    assert not shards[0] & shards[1]


def test_the_store_is_the_one_a_single_process_makes(outcome, tmp_path):
    folder, results = outcome
    alone = fill(tmp_path, contents(str(folder / "model")), batch_size=3, rows_per_shard=PER_SHARD)
    together = open_store(folder / "store")
    rows = torch.arange(COUNT)
    assert torch.equal(alone.gather(rows)["latent"], together.gather(rows)["latent"])
    assert alone.manifest == together.manifest
    assert torch.equal(results[0]["first"], results[1]["first"])


def test_more_processes_than_samples(outcome):
    """One has nothing to do, and both get the store."""
    _, results = outcome
    assert torch.equal(results[0]["few"], results[1]["few"]) and len(results[0]["few"]) == 1


def test_an_error_of_one_is_raised_on_both(outcome):
    _, results = outcome
    assert all("no more paper" in result["error"] for result in results)
