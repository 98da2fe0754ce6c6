"""Reference statistics: computed once, never mistaken, the same from one process or several."""

import logging

import pytest
import torch

from helpers.ranks import run_ranks
from latentsmith.data.base import CorruptSample
from latentsmith.data.loader import Loader
from latentsmith.data.order import rank_slice
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.pixel_pca import PixelPCA, PixelPCAConfig
from latentsmith.errors import UserError
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.metrics.reference_statistics import (
    load_statistics,
    reference_statistics,
    space_of,
    statistics_manifest,
    statistics_path,
)
from latentsmith.utils.distributed import from_main, gather_rows, raise_together


class Images:
    """Twenty-three random 6 x 6 images; those in ``broken`` cannot be read."""

    name, classes, origin = "toy/val", None, "made here"

    def __init__(self, seed: int = 0, broken: tuple[int, ...] = ()):
        rng = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (23, 1, 6, 6), generator=rng).to(torch.uint8)
        self.digest, self.broken, self.reads = f"digest-{seed}", broken, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        self.reads += 1
        if index in self.broken:
            raise CorruptSample(f"image {index}")
        return {"image": self.images[index]}


def pca(components: int = 4) -> PixelPCA:
    return PixelPCAConfig(components=components).build().fit([Images().images / 255])


def loader(dataset: Images, rank: int = 0, world_size: int = 1, **transform) -> Loader:
    settings = {"resolution": 6, "channels": 1} | transform
    return Loader(
        dataset, TransformConfig(**settings).build(), batch_size=6, seed=5,
        rank=rank, world_size=world_size,
    )  # fmt: skip


def same(a: FeatureStats, b: FeatureStats, tolerance: float = 1e-10) -> bool:
    return (a.n, a.space, a.manifest) == (b.n, b.space, b.manifest) and bool(
        torch.allclose(a.mean, b.mean, rtol=tolerance, atol=tolerance)
        and torch.allclose(a.m2, b.m2, rtol=tolerance, atol=tolerance)
    )


def test_computed_once_and_equal_to_the_direct_ones(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data, encoder = Images(), pca()
    found = reference_statistics(encoder, loader(data), tmp_path)
    direct = encoder.vector(data.images / 255).double()
    assert found.features is None and found.stats.n == 23
    torch.testing.assert_close(found.stats.cov, direct.T.cov(), rtol=1e-6, atol=1e-9)
    assert found.stats.space == space_of(encoder)
    assert found.stats.space.split("@")[0] == "pixel_pca"
    reads = data.reads
    again = reference_statistics(encoder, loader(data), tmp_path)
    assert data.reads == reads, "nothing is read twice"
    assert torch.equal(again.stats.m2, found.stats.m2)


def test_features_are_kept_when_asked_for_and_unreadable_ones_left_out(tmp_path):
    data, encoder = Images(broken=(3, 17)), pca()
    found = reference_statistics(encoder, loader(data), tmp_path, keep_features=True)
    rest = [i for i in range(23) if i not in (3, 17)]
    torch.testing.assert_close(found.features, encoder.vector(data.images[rest] / 255))
    assert found.stats.n == 21
    data.reads = 0
    again = reference_statistics(encoder, loader(data), tmp_path, keep_features=True)
    assert data.reads == 0 and torch.equal(again.features, found.features)
    # the statistics of both ways are one
    apart = reference_statistics(encoder, loader(Images(broken=(3, 17))), tmp_path / "b")
    assert same(apart.stats, found.stats)


def test_another_encoder_dataset_or_transform_is_another_file(tmp_path):
    def path(encoder=None, dataset=None, **transform):
        load = loader(dataset or Images(), **transform)
        manifest = statistics_manifest(encoder or pca(), load.dataset, load.transform)
        return statistics_path(tmp_path, manifest)

    paths = {path(), path(pca(3)), path(dataset=Images(1)), path(resolution=5)}
    assert len(paths) == 4 and path() in paths


def test_a_file_given_by_hand_is_refused_by_name_of_what_differs(tmp_path):
    encoder, load = pca(), loader(Images())
    found = reference_statistics(encoder, load, tmp_path).stats
    path = tmp_path / "mine.safetensors"
    found.save(path)
    assert same(load_statistics(path, encoder, load.dataset, load.transform), found)
    for message, other in (
        ("dataset.digest: 'digest-0' there, 'digest-1' wanted",
         (encoder, Images(1), load.transform)),
        ("encoder.weights", (pca(3), load.dataset, load.transform)),
        ("transform", (encoder, load.dataset, loader(Images(), resolution=5).transform)),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            load_statistics(path, *other)


def test_a_damaged_file_is_reported_and_replaced(tmp_path, caplog):
    encoder, load = pca(), loader(Images())
    found = reference_statistics(encoder, load, tmp_path).stats
    (path,) = tmp_path.glob("*.stats.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(UserError, match="damaged"):
        FeatureStats.load(path)
    assert same(reference_statistics(encoder, load, tmp_path).stats, found)
    assert "computing again" in caplog.text and path.read_bytes() == whole


def test_refusals(tmp_path):
    with pytest.raises(UserError, match="random transform"):
        reference_statistics(pca(), loader(Images(), flip=True), tmp_path)
    with pytest.raises(UserError, match="among 2 processes, but there are 1"):
        reference_statistics(pca(), loader(Images(), 0, 2), tmp_path)
    broken = loader(Images(broken=tuple(range(22))))
    broken.corrupt_budget = 30
    with pytest.raises(UserError, match="1 readable image"):
        reference_statistics(pca(), broken, tmp_path)
    assert not list(tmp_path.glob("*.stats.safetensors"))


# Over processes ---------------------------------------------------------------------------------


def _refused(call) -> str:
    try:
        call()
    except UserError as error:
        return str(error)
    return ""


class NaNOn:
    """An encoder that gives NaN for one image."""

    def __new__(cls, index: int) -> PixelPCA:
        encoder, bad = pca(), Images().images[index] / 255
        vector = encoder.vector
        encoder.vector = lambda x: vector(x) + (x == bad).all(3).all(2).all(1)[:, None] * torch.nan
        return encoder


def _work(rank: int, world_size: int, folder: str) -> dict:
    from pathlib import Path

    x = torch.randn(11, 3, 2, generator=torch.Generator().manual_seed(0))
    mine = x[rank_slice(11, rank, world_size)]
    sizes = [0, 5, 6] if world_size == 3 else [0, 11]  # one process has nothing
    start = sum(sizes[:rank])
    stats = FeatureStats(6, "net", {"made": "here"})
    for part in x.flatten(1)[start : start + sizes[rank]].split(4):
        stats.update(part + 1e4)
    place = Path(folder) / str(world_size)
    load = loader(Images(broken=(4,)), rank, world_size)
    found = reference_statistics(pca(), load, place, keep_features=True)
    before = load.dataset.reads
    again = reference_statistics(pca(), load, place)
    return {
        "rows": gather_rows(mine),
        "types": [gather_rows(mine.to(kind)) for kind in (torch.float16, torch.int64, torch.bool)],
        "uneven": gather_rows(x[start : start + sizes[rank]]),
        "kinds": _refused(lambda: gather_rows(x.double() if rank else x)),
        "stats": stats.all_reduce(),
        "spaces": _refused(lambda: FeatureStats(2, f"space {rank}").all_reduce()),
        "found": found,
        "again": again.stats,
        "reads": load.dataset.reads - before,
        "main": from_main(rank + 7),
        "together": _refused(
            lambda: raise_together(UserError("no disk") if rank == world_size - 1 else None)
        ),
        "nan": _refused(
            lambda: reference_statistics(
                NaNOn(22), loader(Images(), rank, world_size), place / "n"
            )
        ),
    }  # fmt: skip


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory):
    return run_ranks(_work, request.param, str(tmp_path_factory.mktemp("ranks")))


def test_rows_are_joined_in_order_whatever_each_process_holds(ranks):
    x = torch.randn(11, 3, 2, generator=torch.Generator().manual_seed(0))
    for result in ranks:
        assert torch.equal(result["rows"], x) and torch.equal(result["uneven"], x)
        for kind, joined in zip(
            (torch.float16, torch.int64, torch.bool), result["types"], strict=True
        ):
            assert torch.equal(joined, x.to(kind))
        assert "float32" in result["kinds"] and "float64" in result["kinds"]


def test_statistics_over_processes_are_those_of_one(ranks):
    x = torch.randn(11, 3, 2, generator=torch.Generator().manual_seed(0)).flatten(1)
    one = FeatureStats(6, "net", {"made": "here"}).update(x + 1e4)
    for result in ranks:
        assert same(result["stats"], one)
        assert torch.equal(result["stats"].m2, ranks[0]["stats"].m2)
        assert "space 0" in result["spaces"] and "space 1" in result["spaces"]


def test_a_dataset_shared_by_processes_gives_the_statistics_of_one(ranks, tmp_path):
    one = reference_statistics(pca(), loader(Images(broken=(4,))), tmp_path, keep_features=True)
    for result in ranks:
        # the encoder works in float32, and its last digit depends on the batch's size
        assert same(result["found"].stats, one.stats, 1e-5)
        torch.testing.assert_close(result["found"].features, one.features)
        assert same(result["again"], ranks[0]["found"].stats) and result["reads"] == 0


def test_one_processs_failure_is_everybodys(ranks):
    for result in ranks:
        assert result["main"] == 7
        assert result["together"] == f"process {len(ranks) - 1}: no disk"
        assert "NaN" in result["nan"]


def test_alone_nothing_is_sent():
    x = torch.zeros(2, 3)
    stats = FeatureStats.of(torch.rand(3, 2), "a")
    assert gather_rows(x) is x and from_main(3) == 3 and stats.all_reduce() is stats
    raise_together(None)
    with pytest.raises(UserError, match="alone"):
        raise_together(UserError("alone"))
