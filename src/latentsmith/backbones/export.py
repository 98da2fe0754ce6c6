"""Saving denoising networks as diffusers models, and reading them back.

A folder has ``config.json`` (the network's settings, latent shape, classes) and
``diffusion_pytorch_model.safetensors``. `load_backbone` reads it without diffusers;
``diffusers_class().from_pretrained(folder)`` gives a ``ModelMixin`` around the same network.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latentsmith.backbones.base import BACKBONES, Backbone
from latentsmith.errors import UserError
from latentsmith.registry import read
from latentsmith.utils.files import atomic_folder

log = logging.getLogger(__name__)

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CLASS = "LatentsmithBackbone"
PREFIX = "network."  # where the network lies inside the ModelMixin


def build_backbone(
    settings: dict[str, Any], latent_shape: list[int], classes: int | None
) -> Backbone:
    """A fresh network from plain values, as `describe` gives and config.json holds them.

    Raises:
        UserError: an unknown kind, or settings that do not fit this version.
    """
    channels, height, width = latent_shape
    return read(BACKBONES, settings).build((channels, height, width), classes)


def describe(backbone: Backbone) -> dict[str, Any]:
    """Everything but the weights, JSON-able: the arguments of `build_backbone`."""
    return {
        "settings": asdict(backbone.config),
        "latent_shape": list(backbone.latent_shape),
        "classes": backbone.classes,
    }


def save_backbone(backbone: Backbone, folder: Path | str) -> Path:
    """Write ``folder`` (replaced if it is there), atomically; see the module's text."""
    model = diffusers_class().around(backbone)
    folder = Path(folder)
    with atomic_folder(folder) as tmp:
        # one file whatever its size: `load_backbone` reads no index
        model.save_pretrained(tmp, max_shard_size="1TB")
    log.info("saved the %s backbone to %s", backbone.config.kind, folder)
    return folder


def load_backbone(folder: Path | str) -> Backbone:
    """The network that `save_backbone` (or ``save_pretrained`` of its class) wrote, float32 unless
    saved otherwise, in evaluation mode.

    Raises:
        UserError: the folder is not one of ours, incomplete, or does not fit its own settings.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is no saved backbone: it has no {name}. Give a folder that "
                "save_backbone wrote"
            )
    try:
        config = json.loads((folder / CONFIG).read_text())
        state = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{folder} is damaged: {error}. Save or copy it anew") from error
    if config.get("_class_name") != CLASS:
        raise UserError(
            f"{folder} holds a {config.get('_class_name')}, not a {CLASS}: published DiT weights "
            "are read by load_published, diffusers' class by from_diffusers_dit"
        )
    arguments = {k: v for k, v in config.items() if not k.startswith("_")}
    with torch.device("meta"):
        backbone = build_backbone(**arguments)
    fill(backbone, {k.removeprefix(PREFIX): v for k, v in state.items()}, str(folder))
    return backbone.eval()


def check_state(
    expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor], where: str
) -> None:
    """Compare names and shapes of weights.

    Raises:
        UserError: missing, unexpected or ill-shaped weights, naming them.
    """
    problems = [f"lacks {k}" for k in expected if k not in state]
    problems += [f"has an unexpected {k}" for k in state if k not in expected]
    problems += [
        f"has {k} of shape {list(v.shape)} instead of {list(expected[k])}"
        for k, v in state.items()
        if k in expected and tuple(v.shape) != expected[k]
    ]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise UserError(
            f"the weights of {where} do not fit the network: it {'; '.join(problems[:8])}{more}"
        )


def fill(backbone: Backbone, state: Mapping[str, Tensor], where: str) -> None:
    """Put ``state`` into a network built on the meta device; its tensors are kept, not copied.

    Raises:
        UserError: they do not fit, see `check_state`.
    """
    expected = {k: tuple(v.shape) for k, v in backbone.state_dict().items()}
    check_state(expected, state, where)
    backbone.to_empty(device="cpu")  # constants are made anew
    backbone.load_state_dict({k: v.contiguous() for k, v in state.items()}, assign=True)
    backbone.requires_grad_(True)


@cache
def diffusers_class() -> Any:
    """The ``ModelMixin`` class around any backbone, made on first use: diffusers is slow to
    import. Its attribute ``network`` is the backbone."""
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.modeling_utils import ModelMixin

    class LatentsmithBackbone(ModelMixin, ConfigMixin):
        """A denoising network as diffusers saves and loads it."""

        @register_to_config
        def __init__(
            self, settings: dict[str, Any], latent_shape: list[int], classes: int | None = None
        ):
            super().__init__()
            self.network = build_backbone(settings, latent_shape, classes)

        @classmethod
        def around(cls, backbone: Backbone) -> "LatentsmithBackbone":
            """The model whose network *is* ``backbone``, not a copy."""
            with torch.device("meta"):
                model = cls(**describe(backbone))
            model.network = backbone
            return model

        def forward(
            self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor | None = None
        ) -> Tensor:
            """Noisy latents [B, C, H, W], our time [B] in [0, 1] (1 = noise), labels [B] → the
            prediction [B, C, H, W], in the parametrization of config["settings"]["predicts"]."""
            condition = {} if class_labels is None else {"label": class_labels}
            return self.network(hidden_states, timestep, condition).sample

    return LatentsmithBackbone
