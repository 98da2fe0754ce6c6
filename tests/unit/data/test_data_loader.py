"""The loader: resume, ranks, columns, corrupt samples, transforms, threads."""

import itertools
import threading

import pytest
import torch

from latentsmith.data.base import CorruptSample
from latentsmith.data.loader import Loader
from latentsmith.data.memory import MemoryDataset
from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.subset import subset
from latentsmith.data.transforms import TransformConfig
from latentsmith.errors import UserError

PLAIN = TransformConfig(resolution=8, channels=1).build()
RANDOM = TransformConfig(resolution=8, channels=1, crop="random", flip=True).build()


class Files:
    """Stands for image files of many sizes; some indices are unreadable."""

    name, classes, origin, digest = "files/train", ["even", "odd"], "test", "d"

    def __init__(self, n, bad=()):
        self.n, self.bad = n, set(bad)

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index in self.bad:
            raise CorruptSample(f"file-{index}.png: truncated")
        generator = torch.Generator().manual_seed(index)
        size = (1, 9 + index % 4, 9 + index % 3)
        image = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        return {"image": image, "label": index % 2, "caption": f"picture {index}"}


def memory(n=20):
    images = torch.randint(
        0, 256, (n, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return MemoryDataset(images, torch.arange(n) % 2, name="m/train", classes=["a", "b"])


def take(iterator, count):
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], torch.Tensor):
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)
        else:
            assert a[key] == b[key]


def shapes(n=20):
    return ShapesConfig(resolution=16, train_count=n).build("train", None)


@pytest.mark.parametrize(
    "dataset", [Files(10), memory(10), shapes(10)], ids=["files", "mem", "gat"]
)
@pytest.mark.parametrize("transform", [PLAIN, RANDOM], ids=["plain", "random"])
def test_resume_equals_uninterrupted(dataset, transform):
    loader = Loader(dataset, transform, batch_size=4, seed=1)
    whole = take(loader.iterate(0), 8)  # three epochs; batches cross their borders
    for done in (1, 3, 6):
        for a, b in zip(take(loader.iterate(4 * done), 2), whole[done:], strict=False):
            same(
                {k: v for k, v in a.items() if k != "factors"},
                {k: v for k, v in b.items() if k != "factors"},
            )


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("transform", [PLAIN, RANDOM], ids=["plain", "random"])
def test_any_world_size_sees_the_same_global_batches(world_size, transform):
    one = take(Loader(Files(10), transform, batch_size=4, seed=1).iterate(4), 4)
    ranks = [
        take(
            Loader(
                Files(10), transform, batch_size=4, seed=1, rank=rank, world_size=world_size
            ).iterate(4),
            4,
        )
        for rank in range(world_size)
    ]
    for step, batch in enumerate(one):
        for key in ("index", "image", "label"):
            joined = torch.cat([rank[step][key] for rank in ranks])
            torch.testing.assert_close(joined, batch[key], rtol=0, atol=0)


def test_random_transforms_change_every_epoch():
    loader = Loader(memory(4), RANDOM, batch_size=4, seed=0)
    first, second = take(loader.iterate(0), 2)
    a = first["image"][first["index"].argsort()]
    b = second["image"][second["index"].argsort()]
    assert not torch.equal(a, b)


def test_batch_contents():
    batch = take(Loader(Files(10), PLAIN, batch_size=4, seed=0).iterate(0), 1)[0]
    assert batch["index"].dtype == torch.int64 and batch["label"].dtype == torch.int64
    assert batch["image"].shape == (4, 1, 8, 8) and batch["image"].dtype == torch.float32
    assert batch["caption"] == [f"picture {i}" for i in batch["index"].tolist()]
    assert batch["label"].tolist() == [i % 2 for i in batch["index"].tolist()]
    for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
        torch.testing.assert_close(image, PLAIN(Files(10)[index]["image"]), rtol=0, atol=0)


def test_columns_are_gathered_by_index():
    vectors = torch.randn(10, 3)
    for dataset in (Files(10, bad=[2]), memory(10)):
        loader = Loader(dataset, PLAIN, batch_size=5, seed=0, columns={"reference": vectors})
        for batch in take(loader.iterate(0), 3):
            torch.testing.assert_close(batch["reference"], vectors[batch["index"]])
    with pytest.raises(UserError, match="9 rows"):
        Loader(memory(10), PLAIN, batch_size=5, seed=0, columns={"reference": vectors[:9]})


@pytest.mark.parametrize("dataset", [Files(10), memory(10)], ids=["files", "memory"])
def test_epoch_is_in_order_with_a_small_last_batch(dataset):
    batches = list(Loader(dataset, RANDOM, batch_size=4, seed=0).epoch())
    assert [len(b["image"]) for b in batches] == [4, 4, 2]
    assert torch.cat([b["index"] for b in batches]).tolist() == list(range(10))
    again = list(Loader(dataset, RANDOM, batch_size=4, seed=0).epoch())
    torch.testing.assert_close(batches[0]["image"], again[0]["image"], rtol=0, atol=0)


def test_epoch_shared_by_ranks_covers_everything_once():
    parts = [
        torch.cat([b["index"] for b in loader.epoch()])
        for rank in range(2)
        for loader in [Loader(Files(9), PLAIN, batch_size=4, seed=0, rank=rank, world_size=2)]
    ]
    assert sorted(torch.cat(parts).tolist()) == list(range(9))


def test_corrupt_samples_are_replaced_by_the_next_readable_one(caplog):
    dataset = Files(10, bad=[3, 4])
    loader = Loader(dataset, PLAIN, batch_size=5, seed=0, shuffle=False)
    first, second, third = take(loader.iterate(0), 3)
    assert first["index"].tolist() == [0, 1, 2, 5, 5]
    assert first["caption"][3] == "picture 5"
    assert second["index"].tolist() == [5, 6, 7, 8, 9]
    same(first, third)
    assert sorted(loader.corrupt) == [3, 4]
    assert sum("file-3.png" in r.getMessage() for r in caplog.records) == 1  # reported once


def test_the_last_sample_is_replaced_by_the_first():
    loader = Loader(Files(4, bad=[3]), PLAIN, batch_size=4, seed=0, shuffle=False)
    assert take(loader.iterate(0), 1)[0]["index"].tolist() == [0, 1, 2, 0]


def test_epoch_leaves_corrupt_samples_out():
    loader = Loader(Files(6, bad=[2, 3, 5]), PLAIN, batch_size=2, seed=0)
    batches = list(loader.epoch())
    assert [b["index"].tolist() for b in batches] == [[0, 1], [4]]
    assert sorted(loader.corrupt) == [2, 3, 5]


def test_past_the_budget_all_are_named():
    loader = Loader(Files(10, bad=[1, 5, 7]), PLAIN, batch_size=5, seed=0, corrupt_budget=2)
    with pytest.raises(UserError, match=r"budget.*is 2") as caught:
        take(loader.iterate(0), 4)
    assert all(f"file-{k}.png" in str(caught.value) for k in (1, 5, 7))
    hopeless = Loader(Files(10, bad=range(10)), PLAIN, batch_size=5, seed=0, corrupt_budget=3)
    with pytest.raises(UserError, match="cannot be read"):
        take(hopeless.iterate(0), 1)


def test_other_errors_are_not_swallowed():
    class Broken(Files):
        def __getitem__(self, index):
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        take(Loader(Broken(4), PLAIN, batch_size=2, seed=0).iterate(0), 1)


def test_closing_ends_the_threads():
    before = threading.active_count()
    iterator = Loader(Files(10), PLAIN, batch_size=2, seed=0).iterate(0)
    next(iterator)
    assert threading.active_count() > before
    iterator.close()
    assert threading.active_count() == before


def test_thread_count_does_not_matter():
    one = Loader(Files(10, bad=[3]), RANDOM, batch_size=4, seed=0, threads=1, prefetch=1)
    many = Loader(Files(10, bad=[3]), RANDOM, batch_size=4, seed=0, threads=8, prefetch=5)
    for a, b in zip(take(one.iterate(0), 5), take(many.iterate(0), 5), strict=True):
        same(a, b)


def test_all_image_keys_get_the_same_crop_and_flip():
    class Twice(Files):
        image_keys = ("image", "target")

        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample | {"target": sample["image"].clone()}

    batch = take(Loader(Twice(8), RANDOM, batch_size=8, seed=0).iterate(0), 1)[0]
    torch.testing.assert_close(batch["image"], batch["target"], rtol=0, atol=0)


def test_fingerprint_names_what_the_stream_depends_on():
    base = Loader(memory(10), PLAIN, batch_size=4, seed=0).fingerprint
    assert base["n"] == 10 and base["digest"] == memory(10).digest
    assert Loader(memory(10), PLAIN, batch_size=2, seed=0, world_size=2).fingerprint == base
    others = [
        Loader(memory(11), PLAIN, batch_size=4, seed=0),
        Loader(memory(10), RANDOM, batch_size=4, seed=0),
        Loader(memory(10), PLAIN, batch_size=4, seed=1),
        Loader(memory(10), PLAIN, batch_size=4, seed=0, shuffle=False),
        Loader(memory(10), PLAIN, batch_size=4, seed=0, columns={"r": torch.zeros(10, 2)}),
    ]
    assert all(loader.fingerprint != base for loader in others)


def test_impossible_loaders_are_refused():
    with pytest.raises(UserError, match="multiple of 3"):
        Loader(memory(10), PLAIN, batch_size=4, seed=0, world_size=3)
    with pytest.raises(UserError, match="empty"):
        Loader(memory(0), PLAIN, batch_size=4, seed=0)


@pytest.mark.parametrize("dataset", [Files(10), memory(10)], ids=["files", "memory"])
def test_subset_gives_the_chosen_samples_and_its_own_digest(dataset):
    chosen = subset(dataset, torch.tensor([7, 2, 5]))
    batch = next(iter(Loader(chosen, PLAIN, batch_size=3, seed=0).epoch()))
    assert batch["index"].tolist() == [0, 1, 2]
    assert batch["label"].tolist() == [1, 0, 1]
    for row, index in enumerate((7, 2, 5)):
        torch.testing.assert_close(batch["image"][row], PLAIN(dataset[index]["image"]))
    assert chosen.digest != subset(dataset, torch.tensor([7, 2, 6])).digest != dataset.digest
