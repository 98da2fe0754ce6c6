"""Texts to latents of texts and back, by one network, as a diffusers model."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from latentsmith.backbones.blocks.weights import Constant
from latentsmith.backbones.mmdit import MMDiTConfig
from latentsmith.diffusion.masked import MaskedText
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.export.shipped.texts import Texts, VectorScale
from latentsmith.sampling.text_latent.decode import decode
from latentsmith.sampling.text_latent.latents import one_step
from latentsmith.sampling.text_latent.tokens import TextSamplerConfig


class LatentsmithTextLatent(ModelMixin, ConfigMixin):
    """A network over texts and latents, with what its tokens and latents mean.

    Args:
        settings: of the network.
        length: tokens of a text.
        latent_shape: of a normalized latent.
        process: of the masked text.
        predicts, t_max: what the network says of latents, and up to which time.
        tokens: arguments of `Texts`.
        scale: arguments of `VectorScale`.

    Attributes:
        splitter: a transformers tokenizer, where texts are word pieces; None: words.
    """

    @register_to_config
    def __init__(
        self,
        settings: dict[str, Any],
        length: int,
        latent_shape: list[int],
        process: dict[str, Any],
        predicts: str,
        t_max: float,
        tokens: dict[str, Any],
        scale: dict[str, Any],
    ):
        super().__init__()
        config: Any = MMDiTConfig(**settings)
        self.network = config.build(process["vocabulary"], length, tuple(latent_shape))
        self.scaler = VectorScale(**scale)
        self.process, self.texts = MaskedText(**process), Texts(**tokens)
        self.splitter: Any = None
        for module in self.modules():
            if isinstance(module, Constant):
                module._apply(lambda values: values)  # exact, whatever dtype was the default

    @property
    def _model(self) -> TextLatentModel:
        config: Any = self.config
        return TextLatentModel(self.network, self.process, config.predicts, config.t_max)

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], draws: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """Texts → raw latents [N, K0, D], each the mean of ``draws`` looks at noise."""
        rng = generator or torch.Generator(self.device).manual_seed(0)
        ids = self.texts.number(texts, self.splitter).to(self.device)
        return self.scaler.raw(one_step(self._model, ids, rng, draws=draws).latents)

    @torch.no_grad()
    def write(
        self,
        latents: Tensor,
        steps: int = 8,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        guidance: float = 1.0,
        kind: str = "confidence",
        generator: torch.Generator | None = None,
    ) -> list[str]:
        """Raw latents [N, D] or [N, K0, D] → texts.

        Args:
            steps: looks at each text. kind: confidence, the surest tokens first; or ancestral.
            temperature: of the tokens, 0: the likeliest; ``top_p``: of this share of them.
            guidance: away from texts without a latent; 1: none.
        """
        rng = generator or torch.Generator(self.device).manual_seed(0)
        how: Any = TextSamplerConfig(
            kind=kind,  # pyright: ignore[reportArgumentType]
            steps=steps,
            temperature=temperature,
            top_p=top_p,
            guidance=guidance,
        )
        z = self.scaler.normalized(latents.to(self.device))
        z = z.reshape(len(z), *self.network.latent_shape)
        return self.texts.said(decode(self._model, z, how, rng).tokens.cpu(), self.splitter)

    def forward(self, tokens: Tensor, latents: Tensor, t_text: Tensor, t_lat: Tensor) -> Tensor:
        """What the network says of normalized latents, beside token ids [B, L]; times [B] in
        [0, 1], 0: given, 1: absent."""
        return self.network(tokens, latents, t_text, t_lat).latent
