"""The reference cache: computed once, in dataset order, never mistaken, never half-written."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentsmith.data.loader import Loader
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.cache import cache_manifest, cache_path, differences, reference_vectors
from latentsmith.encoders.pixel_pca import PixelPCAConfig
from latentsmith.errors import UserError


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
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"], "no temporary file stays"


def test_each_setup_has_its_own_file_and_the_log_names_the_difference(tmp_path, encoder, caplog):
    caplog.set_level(logging.INFO)
    reference_vectors(encoder, loader(), tmp_path)
    reference_vectors(encoder, loader(resolution=12), tmp_path)
    assert "cached ones differ in transform.resolution: 6 there, 12 wanted" in caplog.text
    reference_vectors(encoder, loader(Images(seed=1)), tmp_path)
    assert "dataset.digest: 'digest-0' there, 'digest-1' wanted" in caplog.text
    encoder.mean += 0.1
    caplog.clear()
    reference_vectors(encoder, loader(), tmp_path)
    assert "cached ones differ in encoder.weights" in caplog.text
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "other settings"])
def test_damaged_files_are_reported_and_replaced(tmp_path, encoder, caplog, damage):
    want = reference_vectors(encoder, loader(), tmp_path)
    (path,) = tmp_path.iterdir()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "flipped bit":
        raw = bytearray(path.read_bytes())
        raw[-5] ^= 1
        path.write_bytes(raw)
    else:
        save_file(load_file(path), path, metadata={"manifest": '{"format": 0}'})
    assert torch.equal(reference_vectors(encoder, loader(), tmp_path), want)
    expected = "other settings: dataset" if damage == "other settings" else "damaged"
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert expected in record.getMessage()
    assert str(path) in record.getMessage()
    caplog.clear()
    assert torch.equal(reference_vectors(encoder, loader(), tmp_path), want)
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert not warnings, "the file was not mended"


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
    with pytest.raises(UserError, match="gave NaN or infinity"):
        reference_vectors(encoder, loader(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_part_of_a_dataset_is_refused(tmp_path, encoder):
    part = Loader(
        Images(), TransformConfig(resolution=6).build(), batch_size=8, seed=5, world_size=2
    )
    with pytest.raises(ValueError, match="world_size=1"):
        reference_vectors(encoder, part, tmp_path)


def test_file_name_is_a_function_of_the_manifest(tmp_path, encoder):
    data = loader()
    manifest = cache_manifest(encoder, data.dataset, data.transform)
    path = cache_path(tmp_path, manifest)
    assert path.name.startswith("pixel_pca-")
    assert cache_path(tmp_path, dict(reversed(manifest.items()))) == path
    assert cache_path(tmp_path, manifest | {"dtype": "float16"}) != path


def test_differences_name_paths_and_both_values():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}) == [
        "a.b: 3 there, 1 wanted"
    ]
    assert differences({"a": 1}, {"a": 1}) == []
