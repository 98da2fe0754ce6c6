"""A tiny generator that reads texts and edits images, with the text encoder it names."""

from functools import partial
from pathlib import Path

import torch

from helpers.tiny_models import tiny_autoencoder, tiny_clip_text
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.backbones.base import Backbone
from latentsmith.backbones.dit import SiTConfig
from latentsmith.backbones.text_dit import TextDiTConfig
from latentsmith.diffusion.flow import LinearPathConfig
from latentsmith.encoders.text.clip_text import ClipTextConfig
from latentsmith.sampling.generator import GeneratorInfo, LatentGenerator
from latentsmith.sampling.pairing import Pairing, normalizer_digest
from latentsmith.sampling.prompts import described

SHAPE = (2, 4, 4)


def lively(backbone: Backbone, seed: int = 1) -> Backbone:
    """With weights whose output is not the 0 of its start."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(torch.randn(p.shape, generator=noise) * 0.2)
    return backbone


def tiny_text_generator(
    folder: Path, *, channels: int = 3, classes: list[str] | None = None, edits: bool = True
) -> LatentGenerator:
    """On latents [2, 4, 4] of 16 x 16 images; its text encoder reads 12 tokens.

    Args:
        classes: of a class-conditional one without texts instead.
        edits: of a text-conditional one, what its training says.
    """
    source = tiny_autoencoder(folder / "raw", channels=channels)
    autoencoder = KLAutoencoderConfig(source=source).build()
    noise = torch.Generator().manual_seed(1)
    autoencoder.measure_normalizer([torch.rand(16, channels, 16, 16, generator=noise)])
    autoencoder.save_pretrained(folder / "autoencoder")
    normalizer = autoencoder.require_normalizer()
    pairing = Pairing(
        autoencoder.encoder_digest(), autoencoder.digest(), normalizer_digest(normalizer), "store"
    )
    info = partial(GeneratorInfo, LinearPathConfig(), pairing, str(folder / "autoencoder"), classes)
    sizes = {"size": None, "width": 8, "depth": 1, "heads": 2, "patch": 1}
    if classes is not None:
        network = lively(SiTConfig(**sizes).build(SHAPE, len(classes)))
        return LatentGenerator(network, info({"samples": 1}), normalizer, autoencoder)
    config = ClipTextConfig(source=tiny_clip_text(folder / "text"))
    encoder = config.build()
    network = TextDiTConfig(**sizes, text_width=16, text_length=12).build(SHAPE)
    lively(network)
    empty = encoder([""])
    network.set_null(empty.sequence[0], empty.mask[0])
    training = {"samples": 1, "edits": edits}
    said = info(training, text_encoder=described(config, encoder.fingerprint()))
    return LatentGenerator(network, said, normalizer, autoencoder)
