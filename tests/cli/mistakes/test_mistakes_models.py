"""Weights, stores and files of numbers that are damaged, of something else, or made by others."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.mistakes import Mistake, check, refused
from helpers.tiny_models import tiny_autoencoder
from latentsmith.cli import main

VAE = "half/training/start/model"
MISTAKES = [
    Mistake(
        "an encoder that is not in the cache, offline",
        "run mmreg scale=smoke encoder=dinov2",
        "weights facebook/dinov2-base: not in the Hugging Face cache",
    ),
    Mistake(
        "an encoder with a wrong hub id, offline",
        "cache vectors encoder=dinov2 encoder.source=nobody/nothing data=digits",
        "cannot load the encoder 'nobody/nothing': .*Give a hub id with network access",
    ),
    Mistake(
        "a folder that holds no encoder",
        "cache vectors encoder=dinov2 encoder.source=./empty data=digits",
        "cannot load the encoder './empty'",
    ),
    Mistake(
        "a teacher that is missing shows before the hours of training it",
        "run urepa scale=smoke teacher=dinov2",
        "the recipe urepa needs what is not there:\n.*weights facebook/dinov2-base",
    ),
    Mistake(
        "a teacher whose patches do not tile its images",
        "run urepa scale=smoke teacher=dinov2 teacher.resolution=100",
        "resolution 100 is not a multiple of its patch size 14: use 98 .7 x 7 tokens. or 112",
    ),
    Mistake(
        "an autoencoder from nowhere",
        "measure nowhere data=digits",
        "cannot load the autoencoder 'nowhere'",
    ),
    Mistake(
        "an autoencoder with a wrong hub id, offline",
        "cache latents nobody/nothing data=digits",
        "cannot load the autoencoder 'nobody/nothing': .*Give a hub id with network access",
    ),
    Mistake(
        "a file for an autoencoder",
        "measure notes.txt data=digits",
        "cannot load the autoencoder 'notes.txt'",
    ),
    Mistake(
        "an autoencoder with other latent channels",
        f"train mmreg.pretrain scale=smoke autoencoder.source={VAE} autoencoder.latent_channels=4",
        "latent_channels is set to 4, but the autoencoder .* has 2: leave latent_channels out",
    ),
    Mistake(
        "an export with the wrong decoder",
        f"export by_class --autoencoder {VAE} --out exported",
        "is not the autoencoder of by_class: .*give the one it was trained with",
    ),
    Mistake(
        "a store of other weights",
        "cache vectors encoder=pixel_pca encoder.components=3 data=image_folder "
        "data.folder=photos --out vectors",
        "vectors holds another store: .*weights: .* there, .* wanted.*Choose another folder",
        leaves=r"\.vectors\.lock",
    ),
    Mistake(
        "a store of other data",
        "cache vectors encoder=pixel_pca encoder.components=4 data=image_folder "
        "data.folder=packed --out vectors",
        "vectors holds another store: .*source.digest",
        leaves=r"\.vectors\.lock",
    ),
    Mistake(
        "a store of another model of the run",
        "cache latents half --model regularized --out latents",
        "half has no model of stage 'regularized'. Known: pretrain",
    ),
    Mistake(
        "numbers a store cannot hold",
        "cache vectors encoder=pixel_pca data=digits dtype=int4",
        "dtype: should be one of: float32, float16",
    ),
    Mistake(
        "more components than images",
        "cache vectors encoder=pixel_pca data=image_folder data.folder=photos --out store",
        "pixel_pca needs more images than components to fit: got 22 for 128",
    ),
    Mistake(
        "images for an autoencoder of fields",
        f"reconstruct {VAE} --points photos/00.png --resolution 8 --out o.npz",
        "holds a kl-autoencoder, which takes images and no points",
    ),
    Mistake(
        "texts for an autoencoder of fields",
        "encode fields --texts texts.txt --out z.npy",
        "fields holds no model of texts and latents",
    ),
    Mistake(
        "points and texts at once",
        "encode fields --texts texts.txt --points stations.npz --out z.npy",
        "give either --points FILE .of a field run. or --texts FILE",
    ),
    Mistake(
        "no gap to fill",
        "infill translator --texts texts.txt",
        r"'a small red circle' has no gap: write \[MASK\]",
    ),
    Mistake(
        "codes that are none",
        "decode fields --codes stations.npz --resolution 4 --out o.npz",
        "stations.npz holds no codes: latentsmith encode writes such",
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_models_and_stores(mistake, place, capsys):
    check(mistake, capsys)


def test_other_data_than_a_run_was_trained_on(place, tmp_path):
    """No mistake: what the run says of its own data holds no more."""
    words = ["data=image_folder", "data.folder=photos", "--out", str(tmp_path / "store")]
    assert main(["cache", "latents", "half", *words]) == 0
    assert main(["cache", "verify", str(tmp_path / "store")]) == 0


def rows(shape: tuple[int, ...], **arrays: np.ndarray) -> dict[str, np.ndarray]:
    where = np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32)
    return {"coordinates": where, "values": np.zeros(shape, np.float32), **arrays}


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (rows((20, 3), coordinates=np.full((20, 2), 7.0)), "coordinates must lie in .-1, 1."),
        (rows((20, 3), values=np.full((20, 3), np.nan)), "values hold NaN or infinity"),
        (rows((20, 1)), "with 1 number.s. each, and this autoencoder takes 2 and 3"),
        (rows((20, 3), coordinates=np.zeros((20, 3))), "of 3 dimension.s."),
        (rows((15, 3)), "values must be .B, N, C. for coordinates"),
        ({"coordinates": np.zeros((2, 2))}, "has no array values; it holds coordinates"),
        (rows((20, 3), values=np.array([{}] * 20)), "holds Python objects, and only numbers"),
    ],
    ids=["too far out", "NaN", "one channel", "three dimensions", "too few", "none", "objects"],
)
def test_points(place, tmp_path, capsys, arrays, says):
    import re

    np.savez(tmp_path / "p.npz", **arrays)
    out = tmp_path / "codes.npz"
    words = ["encode", "fields", "--points", str(tmp_path / "p.npz"), "--out", str(out)]
    assert re.search(says, refused(words, capsys))
    assert not out.exists()


def test_files_of_numbers_that_are_damaged(place, tmp_path, capsys):
    whole = Path("stations.npz").read_bytes()
    for content in (whole[: len(whole) // 2], b"PK\3\4junk", b"hello"):
        (tmp_path / "p.npz").write_bytes(content)
        words = ["encode", "fields", "--points", str(tmp_path / "p.npz")]
        told = refused([*words, "--out", str(tmp_path / "o.npz")], capsys)
        assert "p.npz is not a readable .npz file of numbers" in told


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.arange(4), "an array of floats is needed"),
        (np.full((2, 16), np.nan), "holds NaN or infinity"),
        (np.zeros((2, 20)), r"the model takes [N, 16]"),
        (np.array([{}]), "it holds Python objects"),
    ],
    ids=["whole numbers", "NaN", "of another width", "objects"],
)
def test_latents(place, tmp_path, capsys, array, says):
    np.save(tmp_path / "z.npy", array)
    assert says in refused(["invert", "translator", "--latents", str(tmp_path / "z.npy")], capsys)


# Damaged and incomplete weights ------------------------------------------------------------------


@pytest.fixture
def vae(place, tmp_path):
    """A copy of an autoencoder, to be damaged."""
    return Path(shutil.copytree(VAE, tmp_path / "vae"))


def test_weights_cut_short(vae, tmp_path, capsys):
    file = vae / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5_000])
    told = refused(["cache", "latents", str(vae), "data=digits", "transform.resolution=16"], capsys)
    assert "cannot load the autoencoder" in told or "damaged" in told


def test_weights_that_are_gone(vae, capsys):
    (vae / "diffusion_pytorch_model.safetensors").unlink()
    told = refused(["cache", "latents", str(vae), "data=digits", "transform.resolution=16"], capsys)
    assert "cannot load the autoencoder" in told and "diffusion_pytorch_model" in told


def test_a_config_that_is_no_json(vae, capsys):
    (vae / "config.json").write_text("{")
    told = refused(["cache", "latents", str(vae), "data=digits", "transform.resolution=16"], capsys)
    assert "config.json" in told


def test_a_gray_autoencoder_and_colour_images(place, tmp_path, capsys):
    source = tiny_autoencoder(tmp_path / "gray", channels=1)
    words = ["data=shapes", "data.train_count=24", "transform.resolution=16"]
    told = refused(["cache", "latents", source, *words, "transform.channels=3"], capsys)
    assert "1" in told and "3" in told and "channel" in told


def test_a_damaged_store(place, tmp_path, capsys):
    store = Path(shutil.copytree("vectors", tmp_path / "vectors"))
    (store / "manifest.json").write_text("{")
    assert "manifest" in refused(["cache", "inspect", str(store)], capsys)
    assert main(["cache", "verify", str(store)]) in (1, 2)


def test_a_damaged_generator(place, tmp_path, capsys):
    generator = Path(shutil.copytree("by_class", tmp_path / "g"))
    (generator / "generator.json").write_text("{}")
    told = refused(["sample", str(generator), "--out", str(tmp_path / "out")], capsys)
    assert "generator.json is damaged" in told
    assert not (tmp_path / "out").exists()
