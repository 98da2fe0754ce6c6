"""Saving denoising networks as diffusers models, and reading them back.

A folder has ``config.json`` (the network's settings, latent shape, classes) and
``diffusion_pytorch_model.safetensors``. `load_backbone` reads it without diffusers;
``diffusers_class().from_pretrained(folder)`` gives a ``ModelMixin`` around the same network.

Of a network around frozen weights of a source (`Backbone.borrowed_state`), such as a U-Net with
LoRA, the folder has ``trainable.safetensors`` instead: only what the source does not have. Reading
it reads the source again, and compares its digest.
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
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentsmith.backbones.base import BACKBONES, Backbone
from latentsmith.errors import UserError
from latentsmith.registry import read
from latentsmith.utils.digest import state_digest
from latentsmith.utils.files import atomic_folder

log = logging.getLogger(__name__)

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PART = "trainable.safetensors"
"""What takes the place of `WEIGHTS` where frozen weights are a source's. Another name: diffusers
would take a file with fewer weights, and leave the rest random."""
CLASS = "LatentsmithBackbone"
BORROWED = "borrowed"
"""Entry of config.json beside `PART`: the digest of the frozen weights."""
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
    folder, borrowed = Path(folder), backbone.borrowed_state()
    with atomic_folder(folder) as tmp:
        if borrowed:
            about = {"_class_name": CLASS, **describe(backbone), BORROWED: state_digest(borrowed)}
            (tmp / CONFIG).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
            own = {k: v for k, v in backbone.state_dict().items() if k not in borrowed}
            save_file({k: v.cpu().contiguous() for k, v in own.items()}, tmp / PART)
        else:
            # one file whatever its size: `load_backbone` reads no index
            model = diffusers_class().around(backbone)
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
    weights = PART if (folder / PART).is_file() else WEIGHTS
    for name in (CONFIG, weights):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is no saved backbone: it has no {name}. Give a folder that "
                "save_backbone wrote"
            )
    try:
        config = json.loads((folder / CONFIG).read_text())
        state = load_file(folder / weights)
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{folder} is damaged: {error}. Save or copy it anew") from error
    if config.get("_class_name") != CLASS:
        raise UserError(
            f"{folder} holds a {config.get('_class_name')}, not a {CLASS}: published DiT weights "
            "are read by load_published, diffusers' class by from_diffusers_dit"
        )
    digest = config.pop(BORROWED, None)
    # what exports say besides (auto_map) is diffusers'
    arguments = {k: v for k, v in config.items() if k in ("settings", "latent_shape", "classes")}
    if weights == PART:
        return _around_source(arguments, state, digest, folder).eval()
    with torch.device("meta"):
        backbone = build_backbone(**arguments)
    fill(backbone, {k.removeprefix(PREFIX): v for k, v in state.items()}, str(folder))
    return backbone.eval()


def _around_source(
    arguments: dict[str, Any], state: dict[str, Tensor], digest: str | None, folder: Path
) -> Backbone:
    """The network of `PART`: its source's weights, and ``state`` in them."""
    backbone = build_backbone(**arguments)
    borrowed = backbone.borrowed_state()
    if state_digest(borrowed) != digest:
        raise UserError(
            f"{folder} was saved around other frozen weights than those its source "
            f"{arguments['settings'].get('source')!r} has now (digest "
            f"{state_digest(borrowed)[:12]}, saved {str(digest)[:12]}): put the old ones back"
        )
    own = {k: v for k, v in backbone.state_dict().items() if k not in borrowed}
    check_state({k: tuple(v.shape) for k, v in own.items()}, state, str(folder))
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])
    return backbone


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
            self,
            hidden_states: Tensor,
            timestep: Tensor,
            class_labels: Tensor | None = None,
            encoder_hidden_states: Tensor | None = None,
            encoder_attention_mask: Tensor | None = None,
        ) -> Tensor:
            """Noisy latents [B, C, H, W], our time [B] in [0, 1] (1 = noise), labels [B] or texts
            [B, L, E], with their mask [B, L] where the network takes one → the prediction
            [B, C, H, W], in the parametrization of config["settings"]["predicts"]. (Other
            conditions: call ``network``.)"""
            given = {"label": class_labels, "text": encoder_hidden_states}
            given["mask"] = encoder_attention_mask
            condition = {name: value for name, value in given.items() if value is not None}
            return self.network(hidden_states, timestep, condition).sample

    return LatentsmithBackbone
