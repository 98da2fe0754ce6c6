"""What was trained → a folder that other libraries load from, all or nothing."""

import json
import logging
from pathlib import Path
from typing import Any

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.backbones.text_dit import TextDiT
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.errors import UserError
from latentsmith.export.alone import Alone, of_alone, write_alone
from latentsmith.export.autoencoder import describe_autoencoder, is_in, write_autoencoder
from latentsmith.export.card import model_card
from latentsmith.export.card_generator import of_generator
from latentsmith.export.class_pipeline import write_class_generator
from latentsmith.export.heads import write_heads
from latentsmith.export.onnx_graphs import write_onnx
from latentsmith.export.part import Part
from latentsmith.export.pipeline import Sampling, write_pipeline
from latentsmith.export.unet import in_pipeline, write_unet
from latentsmith.reports.content import Report
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.text_latent.translator import Translator
from latentsmith.utils.files import atomic_folder, move_aside

log = logging.getLogger(__name__)

CARD = "README.md"


def export(
    what: LatentGenerator | Alone,
    out: Path | str,
    *,
    name: str,
    with_vae: bool = False,
    onnx: bool = False,
    report: Report | None = None,
    facts: dict[str, Any] | None = None,
    sampling: Sampling | None = None,
    like: Translator | None = None,
    fresh: bool = False,
) -> Path:
    """Write ``out``: weights, configs, the code of classes that others have not, and ``README.md``.
    Of a generator also its autoencoder and its alignment heads.

    Args:
        what: a generator with its autoencoder, or an autoencoder, a flow of fields, a model of
            texts and latents, a decoder of texts.
        name: what the model card calls it.
        with_vae: write the autoencoder also where the LoRA's pipeline has the same.
        onnx: write the autoencoder as ONNX graphs too, compared with itself.
        report: measurements for the card.
        facts: of what is no generator, how it was trained, for the card. (A generator says.)
        sampling: of pipelines, steps and guidance for the card's code, shift of the scheduler.
        like: of a decoder of texts, the model whose tokens it writes.
        fresh: move what ``out`` holds aside, once the new one is complete.

    Raises:
        UserError: ``out`` is taken, a generator has no autoencoder, nothing of it was trained, it
            has a setting that the other libraries have no answer to, or no ONNX graph is made of
            its autoencoder.
    """
    out = Path(out)
    generated = isinstance(what, LatentGenerator)
    source = Path(what.info.autoencoder) if generated else None
    check_free(out, fresh=fresh, source=source)
    with atomic_folder(out) as tmp:
        if generated:
            parts = _write(what, tmp, with_vae=with_vae, sampling=sampling)
        else:
            parts = write_alone(what, tmp, like=like)
        if onnx:
            parts.append(write_onnx(_autoencoder_of(what), tmp))
        _forget_places(tmp)
        told = of_generator(what, parts) if generated else of_alone(what, facts or {})
        (tmp / CARD).write_text(model_card(name, told, parts, report))
        if _taken(out):
            log.info("moved what was there to %s", move_aside(out))
    for part in parts:
        log.info("%s: %s", out / part.path, part.what.replace("`", ""))
    return out


def _forget_places(folder: Path) -> None:
    """diffusers notes in a config where weights came from: a folder of this machine is nobody
    else's business."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        place = Path(str(config.get("_name_or_path", "")))
        if place.is_absolute() or (place.name and place.exists()):
            del config["_name_or_path"]
            path.write_text(json.dumps(config, indent=2) + "\n")


def _autoencoder_of(what: LatentGenerator | Alone) -> Autoencoder:
    """Raises UserError where there is none."""
    if isinstance(what, Autoencoder):
        return what
    if isinstance(what, LatentGenerator) and what.autoencoder is not None:
        return what.autoencoder
    raise UserError("--onnx writes the graphs of an autoencoder, and there is none: leave it out")


def check_free(out: Path, *, fresh: bool, source: Path | None = None) -> None:
    """Refuse a place that is taken.

    Args:
        fresh: what ``out`` holds may be moved aside.
        source: what is read: the generator's folder, its run's, its autoencoder's.

    Raises:
        UserError: ``out`` is a file, holds something, or holds ``source``.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder with --out FOLDER")
    if source is not None and out.resolve() in (source.resolve(), *source.resolve().parents):
        raise UserError(f"{out} holds what is exported: give another folder with --out FOLDER")
    if _taken(out) and not fresh:
        raise UserError(
            f"{out} exists and is not empty: give another folder with --out FOLDER, or move it "
            "aside with --fresh"
        )


def _taken(out: Path) -> bool:
    return out.is_dir() and any(out.iterdir())


def _write(
    generator: LatentGenerator, folder: Path, *, with_vae: bool, sampling: Sampling | None
) -> list[Part]:
    network, autoencoder = generator.backbone, generator.autoencoder
    if autoencoder is None:
        raise UserError("this generator was loaded without its autoencoder: load it with it")
    if isinstance(network, TextDiT):
        return write_pipeline(generator, folder, sampling) + _heads(generator, folder)
    if not isinstance(autoencoder, KLAutoencoder | FieldAutoencoder):
        raise UserError(
            f"this generator's autoencoder is of kind {autoencoder.kind}, which diffusers has not: "
            f"it goes into the pipeline of a text_dit, and this is a {network.config.kind}. The "
            "saved generator is a folder to copy as it is"
        )
    if not isinstance(network, SDUNet):
        parts = write_class_generator(generator, folder, sampling)
        return [*parts, describe_autoencoder(autoencoder), *_heads(generator, folder)]
    assert isinstance(autoencoder, KLAutoencoder)  # a U-Net has no other
    if network.config.adapt == "none" and generator.aligner is None:
        raise UserError(
            f"nothing of this generator was trained (backbone.adapt=none): its network is "
            f"{network.config.source!r} as it is"
        )
    with_vae = with_vae or _has_its_own(network, autoencoder)
    parts = write_unet(network, generator.info.path, folder, vae=with_vae)
    if with_vae:
        parts.append(write_autoencoder(autoencoder, folder))
    return parts + _heads(generator, folder)


def _heads(generator: LatentGenerator, folder: Path) -> list[Part]:
    if generator.aligner is None:
        return []
    return [write_heads(generator.aligner, generator.backbone, folder)]


def _has_its_own(network: SDUNet, autoencoder: KLAutoencoder) -> bool:
    """Whether nobody else would have the autoencoder: it is not that of the U-Net's pipeline. What
    is not at hand to compare is taken to be it."""
    config = network.config
    if config.adapt == "full" or not in_pipeline(config.source, config.subfolder):
        return True
    same = is_in(config.source, autoencoder)
    if same is None:
        log.warning(
            "the autoencoder of %s is not on this machine to compare: if the generator was trained "
            "with another, give --with-vae",
            config.source,
        )
    return same is False
