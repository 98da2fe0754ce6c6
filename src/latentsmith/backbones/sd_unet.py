"""``sd_unet``: Stable Diffusion's U-Net (1.x, 2.x, XL), with LoRA, and features by name.

The network is diffusers' ``UNet2DConditionModel``, unchanged. It was trained on a DDPM schedule of
T steps: our time t is its integer step i, t = (i + 1) / T. What its output means (`predicts`) and
the schedule (`path`) are read from the scheduler config beside the weights; what a training
compares is another matter (`latentsmith.diffusion.config.DiffusionConfig.objective`).

Frozen parts are never random: they come from ``source``. A network from scratch trains whole.
"""

from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from latentsmith.backbones.base import BACKBONES, BackboneConfig
from latentsmith.backbones.unet_lora import LoraSettings, add_lora
from latentsmith.backbones.unet_memory import narrow_frozen, recompute_where_needed
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.backbones.unet_shapes import SHAPES, UNetShape
from latentsmith.backbones.unet_source import (
    load_unet,
    place_of,
    read_schedule,
    scratch_unet,
)
from latentsmith.config.schema import schema
from latentsmith.diffusion.parametrization import Parametrization
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.errors import UserError
from latentsmith.utils.needs import Need, hub_weights

SCRATCH = "scratch"
TRAINED_HERE = "pretrain"
"""A ``source`` that recipes put the folder of a U-Net in the place of that they trained before."""

Adapt = Literal["lora", "full", "none"]
Stored = Literal["float32", "bfloat16"]


@BACKBONES.register("sd_unet", help="Stable Diffusion's U-Net (1.x, 2.x, XL), frozen with LoRA")
@schema
class SDUNetConfig(BackboneConfig):
    """A published U-Net from the hub or a folder, adapted by LoRA; or one from scratch."""

    kind: Literal["sd_unet"] = "sd_unet"
    source: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """Hub id or folder of a pipeline or of a U-Net; or ``scratch``: random weights, with
    adapt=full."""
    subfolder: str | None = None
    """Where the U-Net lies inside source; left out: unet in a pipeline, else source itself."""
    shape: UNetShape = "sd15"
    """scratch only: the architecture, sd15, sd21 or sdxl."""
    unet: dict[str, Any] = field(default_factory=dict)
    """scratch only: entries of UNet2DConditionModel's config in the place of the shape's. Channels
    and sides of the latents are given by the data."""
    predicts: Parametrization | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """What the network's output means: noise (1.x, XL) or v (2.x). Left out: read from the source's
    scheduler config; noise from scratch."""
    path: VPPathConfig | None = None
    """The noise schedule the network was trained on; its timesteps are what time is counted in.
    Left out: read from the source's scheduler config; Stable Diffusion's from scratch."""
    text_length: Annotated[int, Field(ge=1)] = 77
    """Positions L of the empty prompt's embedding, which the network keeps (`SDUNet.set_null`)."""
    adapt: Adapt = "lora"
    """What trains: lora (the U-Net is frozen), full (every weight) or none (features only)."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """adapt=lora only: where it sits and how large it is."""
    frozen_dtype: Stored = "float32"
    """How frozen weights are stored: bfloat16 halves them. LoRA stays float32."""
    channels_last: bool = False
    """Lay feature maps out channels last: faster convolutions on GPUs with tensor cores."""
    gradient_checkpointing: bool = False
    """Recompute each block in the backward pass: about a third more time, far less memory."""

    def __post_init__(self) -> None:
        scratch = self.source == SCRATCH
        if scratch and self.adapt != "full":
            raise ValueError(
                f"source=scratch with adapt={self.adapt} would freeze random weights: set "
                "adapt=full, or give a source with weights"
            )
        if not scratch and self.unet:
            raise ValueError(
                "unet describes a network from scratch, and source gives another one: leave unet "
                "out, or set source=scratch adapt=full"
            )
        if self.adapt == "full" and self.frozen_dtype != "float32":
            raise ValueError(
                "with adapt=full nothing is frozen, and trained weights are float32: leave "
                "frozen_dtype out (train.precision=bf16 computes in bfloat16)"
            )

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        if self.source in (SCRATCH, TRAINED_HERE):
            return []
        return [hub_weights(self.source, place_of(self.source, self.subfolder) or None)]

    def build(
        self, latent_shape: tuple[int, int, int] | None = None, classes: int | None = None
    ) -> SDUNet:
        """The network, ready to train or to use; its ``config`` has what was read filled in.

        Args:
            latent_shape: (C, H, W) of the latents; None: what the U-Net was made for.
            classes: always None: conditions are texts.

        Raises:
            UserError: the source cannot be had or used, it does not say what its output means,
                latents it cannot take, classes.
        """
        if classes is not None:
            raise UserError(
                f"sd_unet is conditioned on texts, not on {classes} classes: cache the class "
                "names' embeddings as texts ('a photo of a ...'), or use backbone=sit or dit"
            )
        config, unet = self._scratch(latent_shape) if self.source == SCRATCH else self._loaded()
        unet.requires_grad_(self.adapt == "full")
        if self.adapt == "lora":
            add_lora(unet, self.lora, self.init_seed)
        narrow_frozen(unet, getattr(torch, self.frozen_dtype))
        if self.channels_last:
            unet.to(memory_format=torch.channels_last)
        if self.gradient_checkpointing:
            recompute_where_needed(unet)
        return SDUNet(unet, config, latent_shape)

    def _scratch(self, latent_shape: tuple[int, int, int] | None) -> tuple["SDUNetConfig", Any]:
        entries = SHAPES[self.shape] | self.unet
        if latent_shape is not None:
            channels, *sides = latent_shape
            entries |= {"in_channels": channels, "out_channels": channels, "sample_size": sides}
        path = VPPathConfig(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
        config = replace(self, predicts=self.predicts or "noise", path=self.path or path)
        return config, scratch_unet(entries, self.init_seed)

    def _loaded(self) -> tuple["SDUNetConfig", Any]:
        """(settings with what the source says, its U-Net)."""
        predicts, path = self.predicts, self.path
        if predicts is None or path is None:
            facts = read_schedule(self.source, self.subfolder)
            if facts is None:
                raise UserError(
                    f"{self.source!r} has no scheduler config, so it does not say what its U-Net "
                    "predicts, nor on which noise schedule: give the whole pipeline, or set "
                    "predicts (noise for Stable Diffusion 1.x and XL, v for 2.x) and path"
                )
            predicts, path = predicts or facts.predicts, path or facts.path
        unet = load_unet(self.source, self.subfolder)
        folder = Path(self.source).expanduser()
        # what is saved names the source, and must find it from any working folder
        source = str(folder.resolve()) if folder.is_dir() else self.source
        config = replace(self, source=source, predicts=predicts, path=path)
        if self.adapt == "full":
            # its weights become its own: from here on it describes itself, without the source
            config = replace(config, source=SCRATCH, subfolder=None, unet=entries_of(unet))
        return config, unet


def entries_of(unet: Any) -> dict[str, Any]:
    """A U-Net's whole config as JSON-able entries."""
    entries = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in entries.items()}
