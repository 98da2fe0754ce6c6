"""A generator of classes, or of nothing in particular, as a diffusers pipeline, beside what makes
its folder a saved generator of this library."""

import json
from pathlib import Path
from typing import Any

from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.errors import UserError
from latentsmith.export.autoencoder import FOLDER
from latentsmith.export.models import carry_code, check_autoencoder, ship, write_any_autoencoder
from latentsmith.export.part import Part
from latentsmith.export.pipeline import INDEX, Sampling, check_path, version, write_scheduler
from latentsmith.sampling.generator import BACKBONE, LatentGenerator

PIPELINE = "class_pipeline"
PARTS = f"{INDEX}, {PIPELINE}.py"
CARRIED = ("sit", "dit", "skip_mlp")
"""Networks whose code goes along."""

NETWORK = """\
from diffusers import AutoModel

network = AutoModel.from_pretrained("./backbone", trust_remote_code=True).eval()
# network(z, t, labels): z is normalized; t in [0, 1], 1 is noise
"""
PIPE = """\
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(".", trust_remote_code=True)
images = pipe({labels}num_inference_steps={steps}{guidance}).images
"""
TRUST = (
    "`trust_remote_code=True`: classes that diffusers has not are files of this folder; read them "
    "first."
)
OURS = (
    "The whole folder is also a saved generator of latentsmith: `latentsmith sample` takes it, and "
    "`LatentGenerator.load`."
)


def write_class_generator(
    generator: LatentGenerator, folder: Path, sampling: Sampling | None
) -> list[Part]:
    """Write network, autoencoder, and where diffusers has a scheduler for the path the pipeline.

    Raises:
        UserError: a network or an autoencoder that no export has.
    """
    network, autoencoder = generator.backbone, generator.autoencoder
    assert autoencoder is not None
    if network.config.kind not in CARRIED:
        raise UserError(
            f"a {network.config.kind} cannot be exported: known are {', '.join(CARRIED)}, text_dit "
            "and Stable Diffusion's U-Nets. The saved generator is a folder to copy as it is"
        )
    check_autoencoder(autoencoder)
    generator.write(folder, FOLDER)
    parts = []
    made = carry_code(folder / BACKBONE, "modeling_backbone", "LatentsmithBackbone")
    coder = write_any_autoencoder(autoencoder, folder / FOLDER)
    if _has_scheduler(generator):
        _write_index(generator, folder, sampling or Sampling(), {BACKBONE: made, FOLDER: coder})
        parts.append(_pipeline_part(generator, sampling or Sampling(text=1.0)))
        parts.append(Part("scheduler/", "the path it was trained on, diffusers' scheduler"))
    what = f"the network (`{network.config.kind}`), its code beside it"
    return [*parts, Part(f"{BACKBONE}/", what, NETWORK, f"{TRUST} {OURS}")]


def _has_scheduler(generator: LatentGenerator) -> bool:
    """Whether diffusers has one; fields of other than two dimensions are no images."""
    autoencoder = generator.autoencoder
    if isinstance(autoencoder, FieldAutoencoder) and autoencoder.config.dims != 2:
        return False
    try:
        check_path(generator.info.path, generator.backbone.predicts)
    except UserError:
        return False
    return True


def _write_index(
    generator: LatentGenerator, folder: Path, sampling: Sampling, parts: dict[str, Any]
) -> None:
    path, predicts = generator.info.path, generator.backbone.predicts
    index: dict[str, Any] = {"_class_name": [PIPELINE, "ClassPipeline"], **version(), **parts}
    index["scheduler"] = write_scheduler(path, predicts, sampling.shift, folder / "scheduler")
    index["classes"] = generator.info.classes
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    ship(PIPELINE, folder)


def _pipeline_part(generator: LatentGenerator, sampling: Sampling) -> Part:
    classes = generator.info.classes
    labels = "" if classes is None else f"[{classes[0]!r}], "
    scale = 1.0 if classes is None else sampling.text
    guidance = "" if scale == 1 else f", guidance_scale={scale:g}"
    code = PIPE.format(labels=labels, steps=sampling.steps, guidance=guidance)
    note = f"Needs torch and diffusers. {TRUST} `latents=` gives the starting noise."
    return Part(PARTS, "the pipeline, diffusers' layout", code, note)
