"""``diffusers.AutoencoderKL`` from the hub, a folder, or a config; images in [0, 1]."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsmith.autoencoders.base import Autoencoder, Posterior
from latentsmith.autoencoders.normalizer import (
    FILE_NAME,
    Latent,
    LatentNormalizer,
)
from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.utils.digest import state_digest
from latentsmith.utils.files import atomic_folder
from latentsmith.utils.needs import Need, hub_weights
from latentsmith.utils.weights import UNREADABLE, diffusers_is_quiet, reason

log = logging.getLogger(__name__)

SCRATCH = "scratch"

# Architecture of Stable Diffusion's autoencoder (83,653,863 parameters), used by "scratch" for
# every field left open.
SD_SHAPE: dict[str, Any] = {
    "in_channels": 3,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
}


@schema
class KLAutoencoderConfig:
    """A convolutional autoencoder with Gaussian latents.

    With ``source: scratch`` the fields describe the network, and those left open are those of
    Stable Diffusion. With a hub id or folder they are read from it, and a field that is set all
    the same must agree with what was loaded.
    """

    source: str = SCRATCH
    """``scratch``, a hub id (``stabilityai/sd-vae-ft-mse``) or a folder in diffusers format."""
    subfolder: str | None = None
    """Where the autoencoder lies inside ``source`` (``vae`` in a whole pipeline)."""
    in_channels: int | None = None
    """Image channels (3 colour, 1 gray), also of the output."""
    block_out_channels: list[int] | None = None
    """Width of each resolution; every one after the first halves the image."""
    layers_per_block: int | None = None
    """Residual blocks at each resolution (the decoder has one more)."""
    latent_channels: int | None = None
    """Channels C of the latent [C, h, w]."""
    norm_num_groups: int | None = None
    """Groups of every group norm; must divide every width."""
    mid_block_add_attention: bool | None = None
    """Self-attention at the lowest resolution."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more time, far less memory."""
    init_seed: int = 0
    """Seed of the initial weights when made from scratch."""

    def __post_init__(self) -> None:
        if self.source != SCRATCH:
            return
        shape = self.shape()
        groups, widths = shape["norm_num_groups"], shape["block_out_channels"]
        bad = [width for width in widths if width <= 0 or width % groups]
        if not widths or bad:
            raise ValueError(
                f"block_out_channels {widths} must be multiples of norm_num_groups {groups}"
                f" ({bad} are not): set norm_num_groups to a common divisor"
            )

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        return [] if self.source == SCRATCH else [hub_weights(self.source, self.subfolder)]

    def shape(self) -> dict[str, Any]:
        """The architecture "scratch" builds."""
        stated = {name: getattr(self, name) for name in SD_SHAPE}
        return {k: SD_SHAPE[k] if v is None else v for k, v in stated.items()}

    def build(self) -> "KLAutoencoder":
        """Make or load the model, in float32 and ready to train.

        Raises:
            UserError: the source cannot be loaded, or a stated field disagrees with it.
        """
        model = self._scratch() if self.source == SCRATCH else self._load()
        if self.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        autoencoder = KLAutoencoder(model, source=self.source)
        folder = Path(self.source) / (self.subfolder or "")
        if self.source != SCRATCH and (folder / FILE_NAME).is_file():
            autoencoder.normalizer = LatentNormalizer.load(folder)
            autoencoder.require_normalizer()
        return autoencoder

    def _scratch(self) -> Any:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        shape = self.shape()
        levels = len(shape["block_out_channels"])
        # A seed of its own: building something else first must not change these weights.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.init_seed)
            return AutoencoderKL.from_config(
                {
                    **shape,
                    "out_channels": shape["in_channels"],
                    "down_block_types": ["DownEncoderBlock2D"] * levels,
                    "up_block_types": ["UpDecoderBlock2D"] * levels,
                }
            )

    def _load(self) -> Any:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        where = f"{self.source}/{self.subfolder}" if self.subfolder else self.source
        try:
            load: Any = AutoencoderKL.from_pretrained  # typed without output_loading_info
            with diffusers_is_quiet():
                model, info = load(
                    self.source,
                    subfolder=self.subfolder,
                    torch_dtype=torch.float32,
                    output_loading_info=True,
                )
        except UNREADABLE as error:
            raise UserError(
                f"cannot load the autoencoder {where!r}: {reason(error)}."
                " Give a hub id with network access (or already in the Hugging Face cache with "
                "HF_HUB_OFFLINE=1), a folder that AutoencoderKL.save_pretrained wrote "
                "(subfolder: vae for a whole pipeline), or source=scratch"
            ) from error
        missing = info["missing_keys"] + [str(key) for key in info["mismatched_keys"]]
        if missing:  # diffusers fills them with random numbers and a warning
            raise UserError(
                f"the autoencoder {where!r} lacks {len(missing)} weight(s), such as "
                f"{missing[0]!r}, and they would be random: its weight file is not complete"
            )
        for name in SD_SHAPE:
            stated, loaded = getattr(self, name), getattr(model.config, name)
            loaded = list(loaded) if isinstance(loaded, tuple) else loaded
            if stated is not None and stated != loaded:
                raise UserError(
                    f"{name} is set to {stated}, but the autoencoder {where!r} has {loaded}: "
                    f"leave {name} out to take the source's"
                )
        return model


class KLAutoencoder(Autoencoder):
    """An ``AutoencoderKL`` that takes and gives images in [0, 1] and *raw* latents.

    Attributes:
        model: the diffusers model, in float32 (autocast may compute narrower).
    """

    kind = "kl-autoencoder"

    def __init__(self, model: Any, *, source: str = SCRATCH):
        super().__init__(source)
        self.model = model

    @property
    def channels(self) -> int:
        """Image channels."""
        return self.model.config.in_channels

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.model.config.latent_channels

    @property
    def factor(self) -> int:
        """Pixels per latent position, along each side."""
        return 2 ** (len(self.model.config.block_out_channels) - 1)

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, h, w) for square images. Raises UserError when the side is not a multiple of
        `factor`."""
        # no divmod: sides that are traced know none
        side, rest = resolution // self.factor, resolution % self.factor
        if rest or side < 1:
            low = max(side, 1) * self.factor
            raise UserError(
                f"resolution {resolution} does not suit this autoencoder, which divides each side "
                f"by {self.factor}: use {low} or {low + self.factor}"
            )
        return (self.latent_channels, side, side)

    def encode(self, images: Tensor) -> Posterior:
        """[B, channels, H, W] in [0, 1] → posterior over raw latents [B, C, H/f, W/f].

        Raises:
            UserError: other channels than the model's, or a side that is not a multiple of f.
        """
        self.check_images(images)
        # The model was trained on [-1, 1].
        moments = self.model.encode(images * 2 - 1).latent_dist.parameters.float()
        mean, logvar = moments.chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))  # the bounds diffusers decodes with

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents [B, C, h, w] → images float32 [B, channels, H, W], about [0, 1], unclamped
        so that a loss keeps its gradient outside."""
        return (self.model.decode(latents).sample.float() + 1) / 2

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters that decide the latents."""
        return self._parameters_of("encoder", "quant_conv")

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Parameters that decide the image of a given latent."""
        return self._parameters_of("decoder", "post_quant_conv")

    def _parameters_of(self, *names: str) -> list[nn.Parameter]:
        modules = [getattr(self.model, name) for name in names]
        return [p for module in modules if module is not None for p in module.parameters()]

    def last_decoder_weight(self) -> nn.Parameter:
        """Weight of the layer that makes the pixels, where the adversarial weight is balanced."""
        return self.model.decoder.conv_out.weight

    def last_encoder_weight(self) -> nn.Parameter:
        """Weight of the encoder's last layer, where an alignment loss is balanced."""
        return self.model.encoder.conv_out.weight

    def digest(self) -> str:
        """Hex digest of all weights."""
        return state_digest(self.model.state_dict())

    def encoder_digest(self) -> str:
        """Hex digest of the weights that decide the latents."""
        state = self.model.state_dict()
        return state_digest({k: v for k, v in state.items() if k.startswith(("encoder", "quant"))})

    def stated_normalizer(self, *, latent: Latent = "mode") -> LatentNormalizer:
        """What the model's own config says, kept as `normalizer`: for a generator that was
        published with this autoencoder. 0.18215 is right for its own encoder only, and any
        training of that makes it stale.

        Raises:
            UserError: the config gives no scale.
        """
        self.normalizer = LatentNormalizer.from_config(
            self.model.config, encoder_digest=self.encoder_digest(), latent=latent
        )
        return self.normalizer

    def save_pretrained(self, folder: Path | str) -> Path:
        """Write a folder that ``AutoencoderKL.from_pretrained`` loads, with measured scale.

        Raises:
            UserError: the normalizer is missing or stale (see `require_normalizer`).
        """
        normalizer = self.require_normalizer()
        self.model.register_to_config(**normalizer.diffusers_config())
        folder = Path(folder)
        with atomic_folder(folder) as tmp:
            self.model.save_pretrained(tmp)
            normalizer.save(tmp)
        log.info("saved the autoencoder to %s", folder)
        return folder
