"""LoRA on a Stable Diffusion U-Net (Hu et al. 2022), through peft.

    W' = W + (α / r) B A        A [r, in]: random, B [out, r]: 0 at the start, so W' = W

W stays frozen. The adapter's files are those ``StableDiffusionPipeline.load_lora_weights`` takes.
"""

import logging
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from latentsmith.backbones.unet_taps import path_of
from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.utils.files import atomic_folder
from latentsmith.utils.seeding import stream_seed

log = logging.getLogger(__name__)

Scope = Literal["mid", "all_attention"]

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The linear layers of an attention layer, self and cross."""


@schema
class LoraSettings:
    """Where LoRA sits in a U-Net, and how large it is."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Rank r of the update of a layer."""
    alpha: Annotated[float, Field(gt=0)] = 8.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input while training."""
    scope: Scope | list[str] = "mid"
    """Blocks that get it: mid (the middle block), all_attention (every block), or a list of names
    (enc_last, mid, dec_first) and module paths such as up_blocks.1 or down_blocks.2.attentions."""
    targets: list[str] = field(default_factory=lambda: list(ATTENTION))
    """Ends of the paths of the layers inside these blocks. conv1 and conv2 are the convolutions
    of residual blocks."""

    def __post_init__(self) -> None:
        if not self.scope or not self.targets:
            raise ValueError(
                "an empty scope or empty targets leave nothing to train: name some blocks and "
                "layers, or set adapt=none"
            )


def target_modules(unet: nn.Module, settings: LoraSettings) -> list[str]:
    """Paths of the layers that get LoRA, in the network's order.

    Raises:
        UserError: a name of ``scope`` or an entry of ``targets`` that finds no layer.
    """
    scope = settings.scope
    if scope == "all_attention":
        prefixes = {"": ""}
    else:
        wanted = [scope] if isinstance(scope, str) else scope
        prefixes = {name: path_of(unet, name) + "." for name in wanted}
    layers = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and any(name == end or name.endswith(f".{end}") for end in settings.targets)
    ]
    found = [name for name in layers if any((name + ".").startswith(p) for p in prefixes.values())]
    for name, prefix in prefixes.items():
        if not any((layer + ".").startswith(prefix) for layer in found):
            raise UserError(
                f"lora.scope names {name!r}, where no layer ends in {', '.join(settings.targets)}: "
                f"choose blocks with attention (mid, up_blocks.1), or targets conv1 and conv2"
            )
    for end in settings.targets:
        if not any(layer == end or layer.endswith(f".{end}") for layer in found):
            raise UserError(
                f"lora.targets names {end!r}, and no layer of the chosen blocks ends so: attention "
                f"has {', '.join(ATTENTION)}, residual blocks have conv1 and conv2"
            )
    return found


def add_lora(unet: Any, settings: LoraSettings, seed: int) -> None:
    """Freeze ``unet`` and put fresh LoRA into it, in place: only LoRA requires grad, and the
    output is unchanged. The weights are a function of ``seed`` alone.

    Raises:
        UserError: settings that find no layers, see `target_modules`.
    """
    from peft import LoraConfig

    targets = target_modules(unet, settings)
    unet.requires_grad_(False)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]  # typed int, used as float
        lora_dropout=settings.dropout,
        target_modules=targets,
    )
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(stream_seed(seed, "lora"))
        unet.add_adapter(config)


def is_lora(name: str) -> bool:
    """Whether a parameter's name is an adapter's."""
    return ".lora_" in name


def export_lora(unet: Any, folder: Path | str) -> Path:
    """Write the U-Net's LoRA as ``folder/pytorch_lora_weights.safetensors``, atomically, with its
    rank and alpha in the file's metadata: what ``load_lora_weights`` of diffusers' Stable
    Diffusion pipelines (and peft) read.

    Raises:
        UserError: the U-Net has no LoRA.
    """
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    if not getattr(unet, "peft_config", None):
        raise UserError("this U-Net has no LoRA to export: build it with adapt=lora")
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    layers = {name: v.detach().cpu().contiguous() for name, v in layers.items()}
    folder = Path(folder)
    with atomic_folder(folder) as tmp:
        StableDiffusionLoraLoaderMixin.save_lora_weights(
            str(tmp),
            unet_lora_layers=layers,
            unet_lora_adapter_metadata=_metadata(unet),
        )
    log.info("exported LoRA of %d layers to %s", len(layers) // 2, folder)
    return folder


def _metadata(unet: Any) -> dict[str, Any]:
    """The adapter's LoraConfig, JSON-able and in a fixed order."""
    config = unet.peft_config["default"].to_dict()
    return {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
