"""The run's U-Net without memory, for dry runs and plans."""

from typing import Any

import torch

from latentsmith.autoencoders.kl import SCRATCH
from latentsmith.backbones.sd_unet import Adapt, SDUNetConfig
from latentsmith.backbones.unet_lora import add_lora
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.backbones.unet_shapes import SHAPES
from latentsmith.backbones.unet_source import place_of
from latentsmith.planning.published import UNETS
from latentsmith.recipes.urepa.config import UREPAConfig


def network_on_meta(
    cfg: UREPAConfig,
    shape: tuple[int, int, int],
    *,
    adapt: Adapt | None = None,
    text_length: int | None = None,
) -> tuple[SDUNet, str]:
    """The U-Net on the meta device, with what trains of it.

    Args:
        shape: (C, h, w) of the latents.
        adapt: None: as the settings adapt it.
        text_length: of the empty prompt; None: the settings'.

    Returns:
        It, and what of it is assumed ("" when nothing).

    Raises:
        UserError: latents it cannot take, LoRA that finds no layers.
    """
    config = cfg.unet if cfg.pretrain is None else cfg.pretrain.unet
    entries, assumed = dict(config.unet), ""
    if cfg.pretrain is None:
        entries, assumed = _published(config)
    scratch = SDUNetConfig(
        source=SCRATCH, adapt="full", shape=config.shape, unet=entries,
        text_length=text_length or config.text_length, predicts=config.predicts, path=config.path,
    )  # fmt: skip
    adapt = adapt or cfg.unet.adapt
    with torch.device("meta"):
        network = scratch.build(shape)
        if adapt == "lora":
            add_lora(network.unet, cfg.unet.lora, 0)
    if adapt == "none":
        network.unet.requires_grad_(False)
    return network, assumed


def _published(config: SDUNetConfig) -> tuple[dict[str, Any], str]:
    """A published U-Net's config; Stable Diffusion 1.5's where it is not at hand."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    if config.source in UNETS:
        return dict(SHAPES[UNETS[config.source]]), ""
    place = place_of(config.source, config.subfolder)
    try:
        found: Any = UNet2DConditionModel.load_config(config.source, subfolder=place or None)
    except (OSError, ValueError):
        return dict(SHAPES["sd15"]), " (not at hand here; Stable Diffusion 1.5's shape assumed)"
    return {k: v for k, v in found.items() if not k.startswith("_")}, ""
