"""Finished runs to explore, made in a second: untrained models where a training leaves them."""

import base64
import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from helpers.backbones import randomized
from helpers.fields import field_autoencoder
from helpers.texts import small_captions, tiny_sentence
from helpers.tiny_text_generator import tiny_text_generator
from latentsmith.backbones.mmdit import MMDiTConfig
from latentsmith.config.compose import compose
from latentsmith.config.run import Run
from latentsmith.data.text.normalizer import VectorNormalizerConfig
from latentsmith.diffusion.masked import MaskedText
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.encoders.text.sentence import SentenceConfig
from latentsmith.explore.bench import Bench
from latentsmith.explore.pictures import png
from latentsmith.explore.server import Explorer, application
from latentsmith.sampling.text_latent.translator import MadeBy, Translator

SHAPES = ["circle", "ring", "half-circle", "triangle", "square", "hexagon", "star", "cross"]


def image_run(folder: Path, *words: str, name: str = "run") -> Path:
    """A run of mmreg, whose arms are unlike: the baseline's generator is told classes, the other's
    texts and edits."""
    words = ("scale=smoke", "data.edits=true", *words)
    with Run.open(folder / name, compose("mmreg", words), words) as run:
        for arm, classes in (("baseline", SHAPES), ("regularized", None)):
            place = run.path / "training" / arm
            generator = tiny_text_generator(place, classes=classes)
            generator.save(place / "generator")
            run.mark_done(arm, {"model": place / "autoencoder"})
            run.mark_done(f"generator-{arm}", {"generators": [{"generator": place / "generator"}]})
        run.finish()
    return run.path


def field_run(folder: Path) -> Path:
    """A run of field: an autoencoder and nothing else."""
    config = compose("field", ["scale=smoke", "evaluate.encoder=pixel_pca"])
    with Run.open(folder / "field", config) as run:
        fields = field_autoencoder()
        fields.measure_normalizer([torch.rand(2, 3, 24, 24)])
        fields.save_pretrained(run.path / "model")
        run.mark_done("autoencoder", {"model": run.path / "model"})
        run.finish()
    return run.path


def text_run(folder: Path) -> Path:
    """A run of textlatent: a model on the vectors of a tiny sentence encoder."""
    (folder / "sentence").mkdir()
    source = tiny_sentence(folder / "sentence")
    _, tokenizer = small_captions(folder / "captions")
    network = randomized(MMDiTConfig(size="smoke").build(tokenizer.size, tokenizer.length, (1, 16)))
    process = MaskedText(tokenizer.size, tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id)
    normalizer = VectorNormalizerConfig().fit(torch.randn(50, 16))
    encoder = SentenceConfig(source=source, length=32).build()
    settings = {"kind": "sentence", "source": source, "length": 32}
    made_by = MadeBy({**encoder.fingerprint(), "stored": "float16"}, settings)
    words = ["scale=smoke", "text_encoder=sentence", f"text_encoder.source={source}"]
    with Run.open(folder / "texts", compose("textlatent", words), words) as run:
        model = TextLatentModel(network.eval(), process)
        Translator(model, tokenizer, normalizer, made_by).save(run.path / "model")
        run.mark_done("base", {"model": run.path / "model"})
        run.finish()
    return run.path


def tabs_by_arm(*runs: Path) -> dict[str, list[str]]:
    """Stage → names of the tabs that fit it."""
    page = Explorer(Bench(runs, count=12)).page()
    stages = {arm["key"]: arm["stage"] for arm in page["arms"]}
    return {
        stage: [tab["name"] for tab in page["tabs"] if key in tab["arms"]]
        for key, stage in stages.items()
    }


def usual(tab: dict[str, Any], **other: Any) -> dict[str, Any]:
    """The values that a tab's controls have before somebody touches them."""
    values, number = dict[str, Any](), 0
    for control in tab["controls"]:
        values[control["name"]] = control.get("value")
        if control["kind"] == "sample":
            values[control["name"]], number = {"number": number}, number + 1
        if control["kind"] == "mask":
            values[control["name"]] = picture(half())
    return values | other


def half(side: int = 16) -> torch.Tensor:
    """[1, 1, S, S], the upper half white."""
    mask = torch.zeros(1, 1, side, side)
    mask[:, :, : side // 2] = 1
    return mask


def picture(images: torch.Tensor) -> str:
    """A data URL of images [1, C, H, W] in [0, 1]."""
    return "data:image/png;base64," + base64.b64encode(png(images)).decode()


@contextlib.contextmanager
def served(runs: Sequence[Path], count: int = 12) -> Iterator[str]:
    """The page of some runs on a free port of the loopback, from this process: its address."""
    import uvicorn

    from latentsmith.explore.serve import LOOPBACK, bound

    with bound(LOOPBACK, 0) as listening:
        app = application(Bench(runs, count=count), hosts=[LOOPBACK, "localhost"])
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(timeout=20)
