"""Tiny random models in the formats of the hub, for tests without a network."""

from pathlib import Path

import torch

WEAK = 1e-3
"""Layer scale at which attention and MLP hardly move a token: it stays what its own patch made
it, and "the token that changes most" is exactly the patch that was lit."""


def tiny_dinov2(
    folder: Path, *, registers: int = 0, image_size: int = 28, patch: int = 14, scale: float = 1.0
) -> str:
    """Save a one-layer DINOv2 with hidden size 16 and layer scale ``scale``; with ``registers``
    the other model class."""
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
    )

    torch.manual_seed(0)
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": image_size,
        "patch_size": patch,
        "layerscale_value": scale,
        "initializer_range": 0.1,
    }
    if registers:
        config = Dinov2WithRegistersConfig(num_register_tokens=registers, **shape)
        model = Dinov2WithRegistersModel(config)
        torch.nn.init.normal_(model.embeddings.register_tokens)
    else:
        model = Dinov2Model(Dinov2Config(**shape))
    model.save_pretrained(folder)
    return str(folder)


def tiny_clip(folder: Path, *, projection: bool = True, image_size: int = 32) -> str:
    """Save a one-layer CLIP image tower: hidden size 16, projection to 8, patch 8."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=8,
    )
    model_class = CLIPVisionModelWithProjection if projection else CLIPVisionModel
    model_class(config).save_pretrained(folder)
    return str(folder)
