"""Latents of texts to texts, by a decoder, as a diffusers model."""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from latentsmith.backbones.blocks.weights import Constant
from latentsmith.backbones.text_inverter import TextInverterConfig
from latentsmith.export.shipped.texts import Texts, VectorScale


class LatentsmithTextInverter(ModelMixin, ConfigMixin):
    """A decoder of texts.

    Args:
        settings: of the network.
        vocabulary, length: numbers of tokens, and of those of a text.
        latent_shape: of a normalized latent.
        tokens: arguments of `Texts`; None: `write` is not to be had.
        scale: arguments of `VectorScale`; None: latents are normalized ones.

    Attributes:
        splitter: a transformers tokenizer, where texts are word pieces; None: words.
    """

    @register_to_config
    def __init__(
        self,
        settings: dict[str, Any],
        vocabulary: int,
        length: int,
        latent_shape: list[int],
        tokens: dict[str, Any] | None = None,
        scale: dict[str, Any] | None = None,
    ):
        super().__init__()
        config: Any = TextInverterConfig(**settings)
        self.network = config.build(vocabulary, length, tuple(latent_shape))
        self.scaler = None if scale is None else VectorScale(**scale)
        self.texts = None if tokens is None else Texts(**tokens)
        self.splitter: Any = None
        for module in self.modules():
            if isinstance(module, Constant):
                module._apply(lambda values: values)  # exact, whatever dtype was the default

    @torch.no_grad()
    def generate(self, latents: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents [N, D] or [N, K0, D] → token ids int64 [N, L]; without ``generator`` the
        likeliest."""
        z = latents.to(self.device)
        z = z if self.scaler is None else self.scaler.normalized(z)
        z = z.reshape(len(z), *self.network.latent_shape)
        return self.network.generate(z, rng=generator)

    def write(self, latents: Tensor, generator: torch.Generator | None = None) -> list[str]:
        """Latents → texts."""
        if self.texts is None:
            raise ValueError("the words of its tokens did not come with it: use generate()")
        return self.texts.said(self.generate(latents, generator).cpu(), self.splitter)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """Token ids [B, L] and normalized latents → logits [B, L, V]."""
        return self.network(tokens, latents)
