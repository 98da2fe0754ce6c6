"""The reference cache: computed once, in dataset order, never mistaken, never half-written."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.ranks import run_ranks
from latentsmith.data.loader import Loader
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.cache import cache_path, reference_vectors
from latentsmith.encoders.pixel_pca import PixelPCAConfig
from latentsmith.errors import UserError
from latentsmith.stores.base import StoreManifest


class Images:
    """Twenty random 6 x 6 images; those in ``broken`` cannot be read."""

    name, classes, origin = "toy/train", None, "made here"

    def __init__(self, seed: int = 0, broken: tuple[int, ...] = ()):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (20, 1, 6, 6), generator=generator).to(torch.uint8)
        self.digest = f"digest-{seed}"
        self.broken = broken
        self.reads = 0

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict:
        from latentsmith.data.base import CorruptSample

        self.reads += 1
        if index in self.broken:
            raise CorruptSample(f"image {index}")
        return {"image": self.images[index]}


def loader(dataset=None, **transform) -> Loader:
    settings = {"resolution": 6, "channels": 1} | transform
    return Loader(dataset or Images(), TransformConfig(**settings).build(), batch_size=7, seed=5)


@pytest.fixture
def encoder():
    pixels = Images().images / 255
    return PixelPCAConfig(components=3).build().fit([pixels])


def test_vectors_are_in_dataset_order_and_read_back(tmp_path, encoder, caplog):
    caplog.set_level(logging.INFO)
    dataset, seen = Images(), []
    first = reference_vectors(
        encoder, loader(dataset), tmp_path, progress=lambda *state: seen.append(state)
    )
    torch.testing.assert_close(first, encoder.vector(dataset.images / 255))
    assert seen == [(7, 20), (14, 20), (20, 20)]
    assert "nothing is cached yet" in caplog.text
    reads = dataset.reads
    second = reference_vectors(encoder, loader(dataset), tmp_path)
    assert torch.equal(first, second)
    assert dataset.reads == reads, "the second call must not touch the images"
    assert not list(tmp_path.rglob("*.tmp")), "no temporary file stays"


def test_each_setup_has_its_own_file_and_the_log_names_the_difference(tmp_path, encoder, caplog):
    caplog.set_level(logging.INFO)
    reference_vectors(encoder, loader(), tmp_path)
    reference_vectors(encoder, loader(resolution=12), tmp_path)
    assert "cached ones differ in transform.resolution: 6 there, 12 wanted" in caplog.text
    reference_vectors(encoder, loader(Images(seed=1)), tmp_path)
    assert "source.digest: 'digest-0' there, 'digest-1' wanted" in caplog.text
    encoder.mean += 0.1
    caplog.clear()
    reference_vectors(encoder, loader(), tmp_path)
    assert "cached ones differ in encoder.weights" in caplog.text
    assert len(list(tmp_path.glob("pixel_pca-*"))) == 4


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped bit", "other settings", "no claim", "keys", "manifest"]
)
def test_damaged_stores_are_reported_and_mended(tmp_path, encoder, caplog, damage):
    want = reference_vectors(encoder, loader(), tmp_path)
    (path,) = tmp_path.glob("pixel_pca-*")
    shard, claim = path / "shard-00000.safetensors", path / "claim.json"
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-10])
    elif damage == "flipped bit":
        raw = bytearray(shard.read_bytes())
        raw[-5] ^= 1
        shard.write_bytes(raw)
    elif damage == "other settings":
        claim.write_text('{"manifest": {"format": 0}}')
    elif damage == "no claim":
        claim.unlink()
    else:
        file = path / {"keys": "keys.safetensors", "manifest": "manifest.json"}[damage]
        file.write_bytes(file.read_bytes()[:-10])
    assert torch.equal(reference_vectors(encoder, loader(), tmp_path), want)
    expected = {"other settings": "other settings: content", "flipped bit": "checksum"}
    expected |= {"truncated": "bytes instead of", "no claim": "claim.json is damaged"}
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert expected.get(damage, "is damaged") in record.getMessage()
    assert str(path) in record.getMessage()
    caplog.clear()
    assert torch.equal(reference_vectors(encoder, loader(), tmp_path), want)
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert not warnings, "the store was not mended"


@pytest.mark.parametrize("end", [b"abcd", b""], ids=["flipped", "truncated"])
def test_only_the_damaged_shard_is_computed_again(tmp_path, encoder, monkeypatch, end):
    monkeypatch.setattr("latentsmith.stores.layout.FEWEST_ROWS", 5)
    want = reference_vectors(encoder, loader(), tmp_path)
    (path,) = tmp_path.glob("pixel_pca-*")
    assert len(list(path.glob("shard-*.safetensors"))) == 4
    shard = path / "shard-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4] + end)
    dataset = Images()
    assert torch.equal(reference_vectors(encoder, loader(dataset), tmp_path), want)
    assert dataset.reads == 5


def test_a_computation_that_broke_off_goes_on(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr("latentsmith.stores.layout.FEWEST_ROWS", 5)

    def stop(done, total):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small = Loader(Images(), loader().transform, batch_size=1, seed=0)
        reference_vectors(encoder, small, tmp_path, progress=stop)
    dataset = Images()
    vectors = reference_vectors(encoder, loader(dataset), tmp_path)
    assert dataset.reads == 10, "ten were kept, ten were owed"
    torch.testing.assert_close(vectors, encoder.vector(dataset.images / 255))


def test_random_transforms_are_refused(tmp_path, encoder):
    with pytest.raises(UserError, match="cannot be cached under a random transform"):
        reference_vectors(encoder, loader(flip=True), tmp_path)


def test_unreadable_samples_leave_nan_rows_in_place(tmp_path, encoder):
    dataset = Images(broken=(4, 11))
    vectors = reference_vectors(encoder, loader(dataset), tmp_path)
    assert vectors.isnan().any(1).nonzero().flatten().tolist() == [4, 11]
    good = [i for i in range(20) if i not in dataset.broken]
    torch.testing.assert_close(vectors[good], encoder.vector(dataset.images / 255)[good])


def test_an_encoder_that_gives_nan_is_refused_and_nothing_is_kept(tmp_path, encoder):
    encoder.axes[0, 0] = float("nan")
    with pytest.raises(UserError, match="vectors of sample 0: NaN or infinity"):
        reference_vectors(encoder, loader(), tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_part_of_a_dataset_is_refused(tmp_path, encoder):
    part = Loader(
        Images(), TransformConfig(resolution=6).build(), batch_size=8, seed=5, world_size=2
    )
    with pytest.raises(ValueError, match="world_size=1"):
        reference_vectors(encoder, part, tmp_path)


def test_the_folders_name_is_a_function_of_the_manifest(tmp_path, encoder):
    manifest = StoreManifest("vectors", {}, 20, encoder.fingerprint(), {"digest": "a"})
    path = cache_path(tmp_path, manifest)
    assert path.name.startswith("pixel_pca-")
    reordered = dict(reversed(encoder.fingerprint().items()))
    assert cache_path(tmp_path, replace(manifest, encoder=reordered)) == path
    assert cache_path(tmp_path, replace(manifest, source={"digest": "b"})) != path


def race(rank: int, world_size: int, folder: str) -> dict[str, object]:
    """Both ranks want the same vectors at the same moment, many times over."""
    encoder = PixelPCAConfig(components=3).build().fit([Images().images / 255])
    reads, found = [], []
    for round in range(ROUNDS):
        dataset = Images()
        torch.distributed.barrier()
        found.append(reference_vectors(encoder, loader(dataset), Path(folder) / str(round)))
        reads.append(dataset.reads)
    return {"reads": reads, "found": found}


ROUNDS = 20


def test_of_two_processes_one_computes_and_the_other_reads(tmp_path):
    one, two = run_ranks(race, 2, str(tmp_path))
    for a, b in zip(one["reads"], two["reads"], strict=True):
        assert sorted((a > 0, b > 0)) == [False, True]
    for a, b in zip(one["found"], two["found"], strict=True):
        assert torch.equal(a, b)
