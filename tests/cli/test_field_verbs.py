"""``encode``, ``decode``, ``reconstruct``: files in, files out, mistakes told."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.fields import field_autoencoder, points
from latentsmith.autoencoders.load import load_autoencoder
from latentsmith.cli import main
from latentsmith.data.fields import grid


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a saved autoencoder."""
    autoencoder = field_autoencoder()
    autoencoder.measure_normalizer([torch.rand(2, 3, 24, 24)])
    return str(autoencoder.save_pretrained(tmp_path_factory.mktemp("field") / "model"))


@pytest.fixture
def stations(tmp_path):
    where, values = points()
    np.savez(tmp_path / "stations.npz", coordinates=where.numpy(), values=values.numpy())
    return tmp_path / "stations.npz"


def told(capsys):
    return capsys.readouterr().err


def test_encode_then_decode_is_reconstruct(model, stations, tmp_path):
    codes, whole, again = (tmp_path / name for name in ("codes.npz", "whole.npz", "again.npz"))
    assert main(["encode", model, "--points", str(stations), "--out", str(codes)]) == 0
    how = ["--resolution", "12", "--out"]
    assert main(["decode", model, "--codes", str(codes), *how, str(whole)]) == 0
    assert main(["reconstruct", model, "--points", str(stations), *how, str(again)]) == 0
    first, second = np.load(whole), np.load(again)
    assert first["grid"].shape == (2, 3, 12, 12) and first["values"].shape == (2, 144, 3)
    assert all(np.array_equal(first[k], second[k]) for k in ("coordinates", "values", "grid"))
    with torch.no_grad():
        autoencoder = load_autoencoder(model)
        expected = autoencoder.decode_at(autoencoder.encode_points(*points()), grid(12))
    np.testing.assert_allclose(first["values"], expected, atol=1e-5)
    assert Image.open(tmp_path / "whole.png").size == (2 * 12 + 6, 12 + 4)


def test_values_at_coordinates(model, stations, tmp_path):
    np.save(tmp_path / "at.npy", np.array([[0.0, 0.0], [0.5, -0.5]]))
    out = tmp_path / "values.npz"
    words = ["--points", str(stations), "--coordinates", str(tmp_path / "at.npy")]
    assert main(["reconstruct", model, *words, "--out", str(out)]) == 0
    assert np.load(out)["values"].shape == (2, 2, 3)
    assert not (tmp_path / "values.png").exists()


def test_some_points_of_an_image(model, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    words = ["reconstruct", model, "--points", str(tmp_path / "photo.png"), "--resolution", "8"]
    found = []
    for name, more in (
        ("a", []),
        ("b", ["--inputs", "9"]),
        ("c", ["--inputs", "9", "--seed", "1"]),
    ):
        out = tmp_path / f"{name}.npz"
        assert main([*words, *more, "--out", str(out)]) == 0
        found.append(np.load(out)["values"])
    assert not np.array_equal(found[0], found[1]) and not np.array_equal(found[1], found[2])


def test_mistakes_are_told(model, stations, tmp_path, capsys):
    out = ["--out", str(tmp_path / "x.npz")]
    given = ["reconstruct", model, "--points", str(stations)]
    assert main([*given, *out]) == 2
    assert "either --resolution or --coordinates" in told(capsys)
    assert main([*given, "--resolution", "8", "--inputs", "3", *out]) == 2
    assert "--inputs is of images" in told(capsys)
    assert main(["decode", model, "--codes", str(stations), "--resolution", "8", *out]) == 2
    assert "holds no codes" in told(capsys)
    assert main(["encode", str(tmp_path), "--points", str(stations), *out]) == 2
    assert "holds no autoencoder" in told(capsys)
    other = field_autoencoder(width=32)
    other.measure_normalizer([torch.rand(2, 3, 24, 24)])
    folder = str(other.save_pretrained(tmp_path / "other"))
    codes = tmp_path / "codes.npz"
    assert main(["encode", folder, "--points", str(stations), "--out", str(codes)]) == 0
    assert main(["decode", model, "--codes", str(codes), "--resolution", "8", *out]) == 2
    assert "made by another encoder" in told(capsys)
    assert not (tmp_path / "x.npz").exists()
