"""A Stable Diffusion U-Net as diffusers reads it: its LoRA, or the whole; and its scheduler."""

import logging
from pathlib import Path

from latentsmith.backbones.unet_network import SDUNet
from latentsmith.backbones.unet_source import place_of
from latentsmith.diffusion.paths import PathConfig
from latentsmith.diffusion.scheduler import PREDICTS, save_scheduler
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.export.part import Part

log = logging.getLogger(__name__)

UNET, SCHEDULER = "unet", "scheduler"
LORA = "pytorch_lora_weights.safetensors"


def write_unet(network: SDUNet, path: PathConfig, folder: Path, *, vae: bool) -> list[Part]:
    """Write what is the network's own into ``folder``: of one that trained whole ``unet/``, of one
    with LoRA that alone; nothing of one that did not train. Beside it ``scheduler/``.

    Args:
        path: the path it was trained on.
        vae: whether the autoencoder is exported too: pipelines are then given it.
    """
    parts = []
    scheduler = _write_scheduler(network, path, folder)
    if scheduler is not None:
        parts.append(scheduler)
    if network.config.adapt == "full":
        network.unet.save_pretrained(folder / UNET, max_shard_size="1TB")
        parts.append(_whole(network, scheduler is not None, vae=vae))
    if network.config.adapt == "lora":
        network.export_lora(folder / "lora")
        (folder / "lora" / LORA).rename(folder / LORA)
        (folder / "lora").rmdir()
        parts.append(_lora(network, scheduler is not None, vae=vae))
    return parts


def _write_scheduler(network: SDUNet, path: PathConfig, folder: Path) -> Part | None:
    """None where diffusers has no scheduler that counts time as the network does."""
    steps = network.path.timesteps
    if not isinstance(path, VPPathConfig) or path.timesteps != steps:
        log.warning("no scheduler is written: path=%s is not one of %d steps", path.kind, steps)
        return None
    if network.predicts not in PREDICTS.values():
        log.warning("no scheduler is written: diffusers has none for a %s", network.predicts)
        return None
    save_scheduler(path, network.predicts, folder / SCHEDULER)
    return Part(f"{SCHEDULER}/", "noise schedule it was trained on, diffusers' `DDIMScheduler`")


def _whole(network: SDUNet, scheduled: bool, *, vae: bool) -> Part:
    loads = [("unet", "UNet2DConditionModel", UNET)]
    loads += [("scheduler", "DDIMScheduler", SCHEDULER)] if scheduled else []
    loads += [("vae", "AutoencoderKL", "vae")] if vae else []
    names = ", ".join(sorted(kind for _, kind, _ in loads))
    given = "".join(f", {name}={name}" for name, _, _ in loads)
    code = [f"from diffusers import {names}", ""]
    code += [f'{n} = {kind}.from_pretrained(".", subfolder="{place}")' for n, kind, place in loads]
    note = (
        f"With the text model it was trained with, it is a pipeline: "
        f"`{_pipeline(network)}.from_pretrained(PIPELINE{given})`."
    )
    return Part(
        f"{UNET}/", "the network, diffusers' `UNet2DConditionModel`", "\n".join(code) + "\n", note
    )


def _lora(network: SDUNet, scheduled: bool, *, vae: bool) -> Part:
    config = network.config
    settings = config.lora
    scope = settings.scope if isinstance(settings.scope, str) else ", ".join(settings.scope)
    what = f"LoRA of rank {settings.rank} on {scope}, diffusers' format"
    if not in_pipeline(config.source, config.subfolder):
        return Part(LORA, what, _lora_on_unet(config.source, config.subfolder))
    pipeline = _pipeline(network)
    loads = [("scheduler", "DDIMScheduler", SCHEDULER)] if scheduled else []
    loads += [("vae", "AutoencoderKL", "vae")] if vae else []
    names = ", ".join(sorted([pipeline, *(kind for _, kind, _ in loads)]))
    given = "".join(f", {name}={name}" for name, _, _ in loads)
    code = [f"from diffusers import {names}", ""]
    code += [f'{n} = {kind}.from_pretrained(".", subfolder="{place}")' for n, kind, place in loads]
    code += [f"pipe = {pipeline}.from_pretrained({config.source!r}{given})"]
    code += [f'pipe.load_lora_weights(".", weight_name="{LORA}")']
    return Part(LORA, what, "\n".join(code) + "\n")


def _lora_on_unet(source: str, subfolder: str | None) -> str:
    place = place_of(source, subfolder)
    inside = f", subfolder={place!r}" if place else ""
    return (
        "from diffusers import UNet2DConditionModel\n\n"
        f"unet = UNet2DConditionModel.from_pretrained({source!r}{inside})\n"
        f'unet.load_lora_adapter(".", weight_name="{LORA}", prefix="unet")\n'
    )


def _pipeline(network: SDUNet) -> str:
    """Name of diffusers' pipeline around such a network."""
    xl = "pooled" in network.takes
    return "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"


def in_pipeline(source: str, subfolder: str | None) -> bool:
    """Whether the U-Net's source is a whole pipeline."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return (folder / "model_index.json").is_file()
    return subfolder in (None, UNET)
