"""What the card of a generator says."""

from pathlib import Path
from typing import Any

import latentsmith
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.export.autoencoder import FOLDER
from latentsmith.export.card import Told, plain
from latentsmith.export.part import Part
from latentsmith.export.pipeline import AUTOENCODER, INDEX
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.utils.digest import state_digest

WRONG = "\nWith another autoencoder the images are wrong but plausible.\n"


def of_generator(generator: LatentGenerator, parts: list[Part]) -> Told:
    """What it is, what it was trained on, what it belongs to."""
    network, tags = generator.backbone, list[str]()
    entries: dict[str, Any] = {}
    piped = any(part.path.startswith(INDEX) for part in parts)
    library = "diffusers" if piped or isinstance(network, SDUNet) else "latentsmith"
    if isinstance(network, SDUNet):
        tags += ["stable-diffusion", "text-to-image"]
        source = network.config.source
        if network.config.adapt == "lora":
            tags.append("lora")
        if network.config.adapt != "full" and not Path(source).exists():
            entries["base_model"] = source
    else:
        tags += [network.config.kind, "latent-diffusion"]
        tags += ["text-to-image"] if piped and "text" in network.takes else []
    made, digests = _made(generator, parts), _digests(generator)
    return Told(_sentence(generator), library, tags, entries, made, digests, WRONG)


def _sentence(generator: LatentGenerator) -> str:
    network, info = generator.backbone, generator.info
    kind = f"A generator of images in the latent space of an autoencoder (`{network.config.kind}`)"
    if isinstance(network, SDUNet):
        how = {"lora": "adapted by LoRA", "full": "trained whole", "none": "not trained"}
        kind = f"A Stable Diffusion U-Net, {how[network.config.adapt]}"
    told = f", of {len(info.classes)} classes" if info.classes else ""
    return f"{kind}{told}; made with latentsmith {latentsmith.__version__}."


def _made(generator: LatentGenerator, parts: list[Part]) -> list[tuple[str, str]]:
    network, info = generator.backbone, generator.info
    rows = [(key, plain(value)) for key, value in info.training.items()]
    if isinstance(network, SDUNet) and network.config.adapt != "full":
        rows.append(("network it started from", f"`{network.config.source}`"))
    if info.classes:
        shown = ", ".join(info.classes[:10])
        rows.append(
            ("classes", f"{shown}, … ({len(info.classes)})" if info.classes[10:] else shown)
        )
    path = {k: v for k, v in info.to_json()["path"].items() if v is not None}
    return [
        *rows,
        ("path", plain(path)),
        ("the network says", network.predicts),
        ("latents", " x ".join(map(str, network.latent_shape))),
        ("autoencoder", _autoencoder(generator, parts)),
    ]


def _autoencoder(generator: LatentGenerator, parts: list[Part]) -> str:
    network, paths = generator.backbone, [part.path for part in parts]
    for folder in (FOLDER, AUTOENCODER):
        if f"{folder}/" in paths:
            return f"`{folder}/`, here"
    assert isinstance(network, SDUNet)  # all others go with theirs
    return f"not here: that of `{network.config.source}`, if its digest is the one below"


def _digests(generator: LatentGenerator) -> list[tuple[str, str]]:
    rows = {
        "autoencoder": "all its weights",
        "encoder": "its weights that made the latents",
        "normalizer": "scale of the latents",
        "latents": "the training's store of latents",
    }
    pairing = generator.info.pairing.to_json()
    digests = [(f"{name}: {what}", str(pairing[name])) for name, what in rows.items()]
    digests.append(("network", state_digest(generator.backbone.state_dict())))
    if generator.aligner is not None:
        digests.append(("alignment heads", state_digest(generator.aligner.state_dict())))
    return digests
