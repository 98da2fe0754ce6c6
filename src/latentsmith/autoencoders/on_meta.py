"""An autoencoder's shape without its weights, for dry runs."""

from dataclasses import replace
from typing import Any

import torch

from latentsmith.autoencoders.kl import SCRATCH, SD_SHAPE, KLAutoencoder, KLAutoencoderConfig


def on_meta(config: KLAutoencoderConfig) -> tuple[KLAutoencoder, str]:
    """The autoencoder without memory, and what of it is assumed ("" when nothing).

    A hub id's shape may not be at hand: then the stated fields, and Stable Diffusion's for the
    rest.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    assumed = ""
    if config.source != SCRATCH:
        try:
            shape: Any = AutoencoderKL.load_config(config.source, subfolder=config.subfolder)
            config = replace(
                config, source=SCRATCH, subfolder=None, **{k: shape[k] for k in SD_SHAPE}
            )
        except (OSError, ValueError):
            assumed = " (not at hand here; Stable Diffusion's shape assumed)"
            config = replace(config, source=SCRATCH, subfolder=None)
    with torch.device("meta"):
        return config.build(), assumed
