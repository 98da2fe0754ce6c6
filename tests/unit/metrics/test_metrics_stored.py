"""Stores of reconstructions, made by several ranks, and what is measured of them."""

import pytest
import torch

from helpers.stores import table, write
from helpers.tiny_models import tiny_autoencoder, tiny_dinov2
from latentsmith.autoencoders.kl import KLAutoencoder, KLAutoencoderConfig
from latentsmith.data.memory import MemoryDataset
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.dinov2 import DinoV2Config
from latentsmith.errors import UserError
from latentsmith.metrics import stored
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import CardConfig
from latentsmith.metrics.card_parts import measure_reconstruction
from latentsmith.metrics.stored import measure_stored, open_reconstructions
from latentsmith.stores.contents import compute_shards, fill
from latentsmith.stores.reconstructions import reconstruction_contents

COUNT = 60
TRANSFORM = TransformConfig(resolution=16).build()
CFG = CardConfig(resamples=20)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> KLAutoencoder:
    return KLAutoencoderConfig(source=tiny_autoencoder(tmp_path_factory.mktemp("ae"))).build()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    source = tiny_dinov2(tmp_path_factory.mktemp("dino"))
    return DinoV2Config(source=source, resolution=28, output="pooled").build()


@pytest.fixture(scope="module")
def data() -> MemoryDataset:
    noise = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (COUNT, 3, 16, 16), dtype=torch.uint8, generator=noise)
    return MemoryDataset(images, None, name="noise/val", classes=None)


@pytest.fixture(scope="module")
def place(autoencoder, encoder, data, tmp_path_factory):
    """Two of three ranks came, one after the other, and made all of it."""
    path = tmp_path_factory.mktemp("store") / "store"
    for rank in (2, 0):
        contents = reconstruction_contents(autoencoder, encoder, data, TRANSFORM)
        compute_shards(path, contents, batch_size=8, rank=rank, world_size=3, rows_per_shard=8)
    return path


@torch.no_grad()
def in_memory(autoencoder, encoder, data):
    images = torch.stack([TRANSFORM(data[i]["image"]) for i in range(COUNT)])
    made = autoencoder.decode(autoencoder.encode(images).mode()).clamp(0, 1)
    features = {encoder.name: (encoder.vector(made), encoder.vector(images))}
    card = measure_reconstruction(images, made, features, stamp=Stamp("noise/val", 0), cfg=CFG)
    return {m.name: m for m in card}


def test_what_is_stored_gives_the_numbers_of_images_in_memory(
    place, autoencoder, encoder, data, monkeypatch
):
    monkeypatch.setattr(stored, "CHUNK", 7)  # in pieces
    found = {
        m.name: m for m in measure_stored(open_reconstructions(str(place), autoencoder), cfg=CFG)
    }
    wanted = in_memory(autoencoder, encoder, data)
    assert set(found) == {"psnr", "ssim", f"fd_{encoder.name}", f"kid_{encoder.name}"}
    for name, measurement in found.items():
        assert measurement.value == pytest.approx(wanted[name].value, rel=1e-4, abs=1e-6), name
        assert measurement.stamp.count == COUNT and measurement.stamp.data == "noise/val"
    assert found["psnr"].interval == pytest.approx(wanted["psnr"].interval, rel=1e-5)
    assert found[f"fd_{encoder.name}"].baseline > 0


def test_another_autoencoders_are_refused_naming_both(place, tmp_path):
    other = KLAutoencoderConfig(source=tiny_autoencoder(tmp_path, seed=1)).build()
    with pytest.raises(UserError, match=r"by another autoencoder .* than .*cache reconstructions"):
        open_reconstructions(str(place), other)


def test_another_content_is_refused(autoencoder, tmp_path):
    store = write(tmp_path / "s", table(4))
    with pytest.raises(UserError, match=r"is a store of .*, not of reconstructions"):
        open_reconstructions(str(store.path), autoencoder)


def test_a_number_that_is_not_finite_names_its_sample(autoencoder, encoder, data, tmp_path):
    contents = reconstruction_contents(autoencoder, encoder, data, TRANSFORM)
    vector = encoder.vector
    encoder.vector = lambda images: vector(images) * float("inf")
    try:
        with pytest.raises(UserError, match=r"real of sample '?0"):
            fill(tmp_path / "s", contents, batch_size=8)
    finally:
        del encoder.vector
