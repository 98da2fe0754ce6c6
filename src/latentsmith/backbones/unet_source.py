"""Where a Stable Diffusion U-Net comes from: the hub, a folder, or its architecture alone."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentsmith.diffusion.scheduler import FILE_NAME, SchedulerFacts, read_scheduler
from latentsmith.errors import UserError
from latentsmith.utils.weights import UNREADABLE, diffusers_is_quiet, reason

CLASS = "UNet2DConditionModel"

GET_IT = (
    "Give a hub id with network access (or already in the Hugging Face cache with "
    "HF_HUB_OFFLINE=1), a pipeline's folder, or a folder that UNet2DConditionModel.save_pretrained "
    "wrote"
)


def place_of(source: str, subfolder: str | None) -> str:
    """Where the U-Net lies inside ``source``: as told, else ``unet`` in a pipeline, "" in a folder
    that is the U-Net itself."""
    if subfolder is not None:
        return subfolder
    return "" if (Path(source).expanduser() / "config.json").is_file() else "unet"


def load_unet(source: str, subfolder: str | None = None) -> Any:
    """The source's ``UNet2DConditionModel``, float32, every weight from the source.

    Args:
        source: hub id or folder of a pipeline or of a U-Net.
        subfolder: see `place_of`.

    Raises:
        UserError: it cannot be had, is another sort of model, is not complete, or is a U-Net this
            library does not run (see `check_unet`).
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    place = place_of(source, subfolder)
    where = f"{source}/{place}" if place else source
    try:
        given: Any = UNet2DConditionModel.load_config(source, subfolder=place or None)
        found = given.get("_class_name", CLASS)
        if found != CLASS:
            raise UserError(f"{where!r} holds a {found}, this backbone needs a {CLASS}. {GET_IT}")
        load: Any = UNet2DConditionModel.from_pretrained  # typed without output_loading_info
        with diffusers_is_quiet():
            unet, info = load(
                source,
                subfolder=place or None,
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
    except UNREADABLE as error:
        raise UserError(f"cannot load the U-Net {where!r}: {reason(error)}. {GET_IT}") from error
    missing = info["missing_keys"] + [str(key) for key in info["mismatched_keys"]]
    if missing:  # diffusers fills them with random numbers and a warning
        raise UserError(
            f"the U-Net {where!r} lacks {len(missing)} weight(s), such as {missing[0]!r}, and they "
            "would be random: its weight file is not complete"
        )
    check_unet(unet, where)
    return unet


def scratch_unet(entries: dict[str, Any], seed: int) -> Any:
    """A fresh ``UNet2DConditionModel``, float32, its weights a function of ``seed`` alone.

    diffusers' initial weights, except that the output layer starts at 0 as in the networks'
    own code (Dhariwal & Nichol 2021; Rombach et al. 2022): the first prediction is 0.

    Args:
        entries: of its config, see `latentsmith.backbones.unet_shapes`.

    Raises:
        UserError: diffusers can make no such network, or `check_unet` refuses it.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    try:
        # a seed of its own: building something else first must not change these weights
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet: Any = UNet2DConditionModel.from_config(entries)
    except (ValueError, TypeError, IndexError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"diffusers can make no U-Net of these entries: {first} (block_out_channels, "
            "down_block_types and up_block_types need one entry for each resolution)"
        ) from error
    check_unet(unet, "the U-Net of these entries")
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet


def check_unet(unet: Any, where: str) -> None:
    """Raises UserError, naming it, for what the networks of this library's U-Nets do not have:
    other conditions than text (and SDXL's sizes), masks beside the latents, no middle block."""
    config, other = unet.config, []
    for name in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
        if config.get(name) is not None:
            other.append(f"{name}={config[name]}")
    if config.addition_embed_type not in (None, "text_time"):
        other.append(f"addition_embed_type={config.addition_embed_type}")
    if not isinstance(config.cross_attention_dim, int):
        other.append(f"cross_attention_dim={list(config.cross_attention_dim)}")
    if config.in_channels != config.out_channels:
        other.append(f"{config.in_channels} input channels for {config.out_channels} (inpainting?)")
    if unet.mid_block is None:
        other.append("no middle block")
    if other:
        raise UserError(
            f"{where} has {', '.join(other)}: this backbone runs U-Nets conditioned on text alone "
            "(Stable Diffusion 1.x, 2.x) or on text and image sizes (SDXL)"
        )


def read_schedule(source: str, subfolder: str | None = None) -> SchedulerFacts | None:
    """What the scheduler config beside the U-Net says; None where there is none.

    Raises:
        UserError: there is one and it cannot be used, see `read_scheduler`.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        # a U-Net's own folder may lie inside a pipeline's
        around = [folder] if place_of(source, subfolder) else [folder, folder.resolve().parent]
        files = [place / "scheduler" / FILE_NAME for place in around]
        found = next((file for file in files if file.is_file()), None)
        return None if found is None else read_scheduler(found)
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    try:
        config: Any = DDPMScheduler.load_config(source, subfolder="scheduler")
    except (OSError, ValueError):
        return None
    return read_scheduler(config)
