"""A working folder with a bit of everything, made once; mistakes leave it as it was."""

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.backbones import randomized
from helpers.fields import field_autoencoder, points
from helpers.images import class_folders, write_image, zip_of
from helpers.texts import small_captions, tiny_sentence
from helpers.tiny_text_generator import tiny_text_generator
from latentsmith.backbones.mmdit import MMDiTConfig
from latentsmith.cli import main
from latentsmith.data.text.normalizer import VectorNormalizerConfig
from latentsmith.diffusion.masked import MaskedText
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.encoders.text.sentence import SentenceConfig
from latentsmith.sampling.text_latent.translator import MadeBy, Translator


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Images, lists and archives; a run that was begun (`half`), its model and stores; a generator
    from classes, one from texts; a field autoencoder; a translator of texts and latents."""
    root = tmp_path_factory.mktemp("mistakes")
    with contextlib.chdir(root), _cache(tmp_path_factory.mktemp("cache")):
        _images()
        _models(tmp_path_factory.mktemp("parts"))
        _commands(
            "train mmreg.pretrain scale=smoke --out half",
            "cache latents half --out latents data.train_count=24",
            "cache vectors encoder=pixel_pca encoder.components=4 data=image_folder "
            "data.folder=photos --out vectors",
        )
    return root


@pytest.fixture
def place(made, monkeypatch, tmp_path):
    """That folder as the working folder, without network."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # what these libraries read of it when they were imported
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    return made


@contextlib.contextmanager
def _cache(folder: Path):
    before = os.environ.get("LATENTSMITH_CACHE")
    os.environ["LATENTSMITH_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["LATENTSMITH_CACHE"]
        if before is not None:
            os.environ["LATENTSMITH_CACHE"] = before


def _commands(*lines: str) -> None:
    for line in lines:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main(line.split()) == 0, line


def _images() -> None:
    for k in range(24):
        write_image(Path(f"photos/{k:02}.png"), value=k)
    Path("empty").mkdir()
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work\n")
    Path("notes.txt").write_text("a text\n")
    class_folders(Path("classes/train"), classes=("cat", "dog"))
    class_folders(Path("classes/val"), classes=("cat", "dog", "emu"))
    class_folders(Path("mixed"), per_class=2)
    write_image(Path("mixed/loose.png"))
    zip_of(class_folders(Path("packed"), per_class=12), Path("good.zip"))


def _models(parts: Path) -> None:
    tiny_text_generator(parts / "classes", classes=["a", "b"]).save("by_class")
    tiny_text_generator(parts / "texts").save("by_text")
    fields = field_autoencoder()
    fields.measure_normalizer([torch.rand(2, 3, 24, 24)])
    fields.save_pretrained(Path("fields"))
    where, values = (part.numpy() for part in points())
    np.savez("stations.npz", coordinates=where, values=values)
    _translator(parts).save(Path("translator"))
    Path("texts.txt").write_text("a small red circle\n")


def _translator(parts: Path) -> Translator:
    """Untrained, with a tiny sentence encoder of 16 numbers."""
    _, tokenizer = small_captions(parts / "captions")
    network = randomized(MMDiTConfig(size="smoke").build(tokenizer.size, tokenizer.length, (1, 16)))
    process = MaskedText(tokenizer.size, tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id)
    normalizer = VectorNormalizerConfig().fit(torch.randn(50, 16))
    (parts / "sentence").mkdir()
    settings = {"kind": "sentence", "source": tiny_sentence(parts / "sentence"), "length": 32}
    encoder = SentenceConfig(source=settings["source"], length=32).build()
    made_by = MadeBy({**encoder.fingerprint(), "stored": "float16"}, settings)
    return Translator(TextLatentModel(network.eval(), process), tokenizer, normalizer, made_by)


@pytest.fixture
def picture(tmp_path):
    """``picture(name, image)``: a folder with that image 24 times."""

    def save(name: str, image: Image.Image, **options) -> Path:
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        for k in range(24):
            image.save(folder / f"{k}-{name}", **options)
        return folder

    return save
