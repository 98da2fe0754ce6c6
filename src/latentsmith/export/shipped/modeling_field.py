"""An autoencoder of fields, from values at scattered points to tokens and to values anywhere, as a
diffusers model used as ``AutoencoderKL`` is."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor
from torch.nn import functional as F

from latentsmith.autoencoders.field.encoder import FieldEncoder
from latentsmith.backbones.blocks.weights import Constant
from latentsmith.backbones.mixers.points import Points
from latentsmith.data.fields.coordinates import grid
from latentsmith.export.shipped.field_parts import decoder_for, features_of, mixer_of


class FieldCode:
    """Raw tokens [B, z, h, w], which have no spread."""

    def __init__(self, tokens: Tensor):
        self.mean = tokens

    def mode(self) -> Tensor:
        """The tokens."""
        return self.mean

    def sample(self, generator: Any = None) -> Tensor:
        """The tokens."""
        return self.mean


class LatentsmithFieldAutoencoder(ModelMixin, ConfigMixin):
    """Fields of values in [-1, 1] over the domain [-1, 1]^d.

    Args:
        settings: of encoder, tokens and decoder.
        in_channels: of images.
        scaling_factor, latents_mean, latents_std: normalized latents z are
            ``z * latents_std / scaling_factor + latents_mean``.
    """

    @register_to_config
    def __init__(
        self,
        settings: dict[str, Any],
        in_channels: int = 3,
        scaling_factor: float = 1.0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ):
        super().__init__()
        about, latent = settings, settings["latent"]
        self.about = SimpleNamespace(**about)
        self.side = round(latent["tokens"] ** (1 / about["dims"]))
        self.encoder = FieldEncoder(
            features_of(about),
            mixer_of(about["mixer"]),
            channels=about["channels"],
            latent=latent["channels"],
            planes=latent["planes"],
            side=self.side,
            convolutions=about["convolutions"],
            width=about["width"],
            depth=about["depth"],
            heads=about["heads"],
            mlp_ratio=about["mlp_ratio"],
        )
        self.decoder = decoder_for(
            about["decoder"], about, tokens=latent["channels"], planes=latent["planes"]
        )
        for module in self.modules():
            if isinstance(module, Constant):
                module._apply(lambda values: values)  # exact, whatever dtype was the default

    def _anchors(self) -> Points:
        return Points(grid(self.side, self.about.dims, self.device)[None])

    @apply_forward_hook
    def encode_points(self, coordinates: Tensor, values: Tensor) -> Tensor:
        """Values [B, N, C] at coordinates [B, N, d] → raw tokens [B, z, h, w]."""
        tokens = self.encoder(Points(coordinates), values, self._anchors())
        side = self.side
        shape = {1: (side, 1), 2: (side, side), 3: (side * side, side)}[self.about.dims]
        return tokens.mT.unflatten(2, shape).float()

    @apply_forward_hook
    def decode_at(self, z: Tensor, coordinates: Tensor, chunk: int = 16384) -> Tensor:
        """Raw tokens [B, z, h, w], coordinates [B, M, d] or [M, d] → values [B, M, C]. ``chunk``:
        queries at once, where each is decoded by itself."""
        asked = coordinates if coordinates.ndim == 3 else coordinates[None]
        step = chunk if self.decoder.config.exact else asked.shape[1]
        anchors, tokens = self._anchors(), z.flatten(2).mT
        context = self.decoder.context(tokens, anchors)
        parts = [
            self.decoder(context, anchors, Points(part), raw=tokens)
            for part in asked.split(step, dim=1)
        ]
        return torch.cat(parts, dim=1)

    def encode(self, x: Tensor) -> SimpleNamespace:
        """Images [B, C, H, W] in [-1, 1] → ``latent_dist``, a `FieldCode`."""
        side = self.about.lattice
        means = F.avg_pool2d(x, x.shape[-1] // side)
        where = grid(side, 2, x.device)[None]
        return SimpleNamespace(
            latent_dist=FieldCode(self.encode_points(where, means.flatten(2).mT))
        )

    def decode(self, z: Tensor, resolution: int | None = None) -> SimpleNamespace:
        """Raw tokens → ``sample``, values on a grid [B, C, R, …], about [-1, 1]."""
        side, dims = resolution or self.about.resolution, self.about.dims
        values = self.decode_at(z, grid(side, dims, z.device))
        return SimpleNamespace(sample=values.mT.unflatten(2, (side,) * dims))

    def forward(self, x: Tensor) -> SimpleNamespace:
        """Images [B, C, H, W] in [-1, 1], there and back."""
        return self.decode(self.encode(x).latent_dist.mode())
