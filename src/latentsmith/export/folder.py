"""A generator → a folder that other libraries load from, all or nothing."""

import logging
from pathlib import Path

from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.backbones.text_dit import TextDiT
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.errors import UserError
from latentsmith.export.autoencoder import FOLDER, is_in, write_autoencoder
from latentsmith.export.card import model_card
from latentsmith.export.heads import write_heads
from latentsmith.export.part import Part
from latentsmith.export.pipeline import Sampling, write_pipeline
from latentsmith.export.unet import in_pipeline, write_unet
from latentsmith.reports.content import Report
from latentsmith.sampling.generator import BACKBONE, LatentGenerator
from latentsmith.utils.files import atomic_folder, move_aside

log = logging.getLogger(__name__)

CARD = "README.md"
LOAD = """\
from latentsmith.sampling.generator import LatentGenerator

generator = LatentGenerator.load(".")
network = generator.backbone  # network(z, t, condition).sample; t in [0, 1], 1 is noise
"""


def export(
    generator: LatentGenerator,
    out: Path | str,
    *,
    name: str,
    with_vae: bool = False,
    report: Report | None = None,
    sampling: Sampling | None = None,
    fresh: bool = False,
) -> Path:
    """Write ``out``: the network, its autoencoder, its alignment heads, and ``README.md``; of a
    generator from texts (``text_dit``), a diffusers pipeline.

    Args:
        generator: with its autoencoder.
        name: what the model card calls it.
        with_vae: write the autoencoder also where the LoRA's pipeline has the same.
        report: measurements for the card.
        sampling: of pipelines, steps and guidance for the card's code, shift of the scheduler.
        fresh: move what ``out`` holds aside, once the new one is complete.

    Raises:
        UserError: ``out`` is taken, the generator has no autoencoder, nothing of it was trained, or
            it has a setting that the other libraries have no answer to.
    """
    out = Path(out)
    check_free(out, fresh=fresh, source=Path(generator.info.autoencoder))
    with atomic_folder(out) as tmp:
        parts = _write(generator, tmp, with_vae=with_vae, sampling=sampling)
        (tmp / CARD).write_text(model_card(name, generator, parts, report))
        if _taken(out):
            log.info("moved what was there to %s", move_aside(out))
    for part in parts:
        log.info("%s: %s", out / part.path, part.what.replace("`", ""))
    return out


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
    if not isinstance(autoencoder, KLAutoencoder):
        raise UserError(
            f"this generator's autoencoder is of kind {autoencoder.kind}, which diffusers has not: "
            f"it goes into the pipeline of a text_dit, and this is a {network.config.kind}. The "
            "saved generator is a folder to copy as it is"
        )
    if isinstance(network, SDUNet):
        if network.config.adapt == "none" and generator.aligner is None:
            raise UserError(
                f"nothing of this generator was trained (backbone.adapt=none): its network is "
                f"{network.config.source!r} as it is"
            )
        with_vae = with_vae or _has_its_own(network, autoencoder)
        parts = write_unet(network, generator.info.path, folder, vae=with_vae)
    else:
        with_vae, parts = True, [_write_own(generator, folder)]
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


def _write_own(generator: LatentGenerator, folder: Path) -> Part:
    """A network of this library: the whole folder is a saved generator."""
    generator.write(folder, FOLDER)
    return Part(
        f"{BACKBONE}/",
        "the network, with its settings, in the layout of a diffusers `ModelMixin`",
        LOAD,
        "Its class is latentsmith's. The whole folder is a saved generator: `latentsmith sample` "
        "takes it too.",
    )
