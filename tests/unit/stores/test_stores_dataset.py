"""Stores under torch's DataLoader, with workers forked and spawned."""

import pytest
import torch
from torch.utils.data import DataLoader

from helpers.reading import make_store
from latentsmith.stores.dataset import StoreDataset

VALUES = {
    "mean": torch.randn(23, 2, 3, generator=torch.Generator().manual_seed(0)).half(),
    "label": torch.arange(23) * 2,
}


def shifted(sample):
    return sample | {"mean": sample["mean"] + sample["index"]}


@pytest.mark.parametrize("backend", ["shards", "lmdb"])
@pytest.mark.parametrize("start", [None, "fork", "spawn"])
def test_batches_of_workers_are_those_of_the_store(tmp_path, backend, start):
    store = make_store(tmp_path / "store", VALUES, backend=backend, unreadable={4: "broken"})
    data = StoreDataset(store, transform=shifted)
    data[0]  # something is open when the workers start
    loader = DataLoader(
        data, batch_size=8, num_workers=1 if start else 0, multiprocessing_context=start
    )
    found = list(loader)
    rows = torch.cat([b["index"] for b in found])
    assert rows.tolist() == [r for r in range(23) if r != 4]
    assert torch.equal(torch.cat([b["label"] for b in found]), VALUES["label"][rows])
    wanted = VALUES["mean"][rows] + rows[:, None, None]
    assert torch.equal(torch.cat([b["mean"] for b in found]), wanted)
    store.close()


def test_single_samples_and_lists_of_them(tmp_path):
    data = StoreDataset(make_store(tmp_path / "store", VALUES), fields=["label"])
    assert len(data) == 23
    assert data[3] == {"index": 3, "label": torch.tensor(6)}
    assert [int(s["label"]) for s in data.__getitems__([-1, 0, 0])] == [44, 0, 0]
    for index in (23, -24):
        with pytest.raises(IndexError, match=f"sample {index} of 23"):
            data[index]
