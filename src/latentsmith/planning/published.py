"""Shapes of published models, so that nothing is asked of a network to plan with them."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from latentsmith.autoencoders.kl import SCRATCH, KLAutoencoder, KLAutoencoderConfig
from latentsmith.autoencoders.on_meta import on_meta
from latentsmith.backbones.unet_shapes import UNetShape
from latentsmith.encoders.base import Encoder, EncoderConfig
from latentsmith.encoders.dinov2 import DinoV2Config
from latentsmith.encoders.text.base import TextEncoderConfig
from latentsmith.losses.perceptual import LPIPS, TRUNKS, Net, build_trunk

SD_VAES = (
    "stabilityai/sd-vae-ft-mse",
    "stabilityai/sd-vae-ft-ema",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/sdxl-vae",
)
"""Autoencoders of Stable Diffusion's shape."""

UNETS: dict[str, UNetShape] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "stabilityai/stable-diffusion-2-1": "sd21",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
}
"""Hub id → name in `latentsmith.backbones.unet_shapes.SHAPES`."""

_VIT = {"model_type": "dinov2", "image_size": 518, "patch_size": 14}
DINOV2: dict[str, dict[str, Any]] = {
    f"facebook/dinov2-{name}": _VIT
    | {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    | ({"use_swiglu_ffn": True} if name == "giant" else {})
    for name, width, layers in (
        ("small", 384, 12), ("base", 768, 12), ("large", 1024, 24), ("giant", 1536, 40),
    )
}  # fmt: skip
"""Hub id → architecture, see `EncoderConfig.empty`. 22, 87, 304 and 1,136 M parameters."""


@dataclass(frozen=True)
class TextShape:
    """What of a text encoder decides the size of what is made of its texts.

    Attributes:
        width: E of a token's embedding. length: L tokens a text.
        model: class of transformers, config: its entries; None: only the shape is known.
    """

    width: int
    length: int
    model: str | None = None
    config: dict[str, Any] | None = None


def _t5(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "d_model": width, "d_ff": inner, "num_layers": layers, "num_heads": heads, "d_kv": 64,
        "feed_forward_proj": "gated-gelu", "vocab_size": 32128,
    }  # fmt: skip


_MINILM = {
    "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "vocab_size": 30522,
}  # fmt: skip
_CLIP_L = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "vocab_size": 49408, "max_position_embeddings": 77,
}  # fmt: skip

TEXTS: dict[str, TextShape] = {
    "minilm": TextShape(384, 256, "BertModel", _MINILM),
    "openai/clip-vit-large-patch14": TextShape(768, 77, "CLIPTextModel", _CLIP_L),
    "google/t5-v1_1-base": TextShape(768, 120, "T5EncoderModel", _t5(768, 2048, 12, 12)),
    "google/t5-v1_1-large": TextShape(1024, 120, "T5EncoderModel", _t5(1024, 2816, 24, 16)),
    "google/t5-v1_1-xl": TextShape(2048, 120, "T5EncoderModel", _t5(2048, 5120, 24, 32)),
    "google/t5-v1_1-xxl": TextShape(4096, 120, "T5EncoderModel", _t5(4096, 10240, 24, 64)),
}
"""Hub id, or a kind that is one model → its shape."""


def text_shape(config: TextEncoderConfig) -> TextShape:
    """Of a published text encoder, else of the one at hand. Raises UserError when neither is."""
    known = TEXTS.get(getattr(config, "source", None) or config.kind) or TEXTS.get(config.kind)
    length = getattr(config, "length", None)
    if known is not None:
        return replace(known, length=length or known.length)
    encoder = config.build()
    return TextShape(encoder.width, encoder.length)


def text_encoder(shape: TextShape) -> nn.Module:
    """transformers' model of a text encoder on the meta device; its ``model`` must be known."""
    import transformers

    assert shape.model is not None
    model: Any = getattr(transformers, shape.model)
    with torch.device("meta"):
        return model(model.config_class(**(shape.config or {})))


def image_encoder(config: EncoderConfig) -> Encoder:
    """An encoder of a published shape on the meta device, else the one at hand (small networks that
    come as packages). Raises UserError when there is neither."""
    if isinstance(config, DinoV2Config) and config.source in DINOV2:
        with torch.device("meta"):
            return config.empty(DINOV2[config.source])
    return config.build().to("meta")


def autoencoder_on_meta(config: KLAutoencoderConfig) -> tuple[KLAutoencoder, str]:
    """As `latentsmith.autoencoders.on_meta.on_meta`; published ones are not looked for."""
    if config.source in SD_VAES:
        config = replace(config, source=SCRATCH, subfolder=None)
    return on_meta(config)


def lpips(net: Net) -> LPIPS:
    """LPIPS on the meta device."""
    with torch.device("meta"):
        linear = {
            f"lin{i}.model.1.weight": torch.empty(1, width, 1, 1)
            for i, width in enumerate(TRUNKS[net].widths)
        }
        return LPIPS(net, build_trunk(net).state_dict(), linear)
