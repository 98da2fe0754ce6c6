"""Architectures of Stable Diffusion's U-Nets, as entries of ``UNet2DConditionModel``'s config."""

from typing import Any, Literal

UNetShape = Literal["sd15", "sd21", "sdxl"]

_SD15: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # diffusers' name for the *number* of heads
}

SHAPES: dict[UNetShape, dict[str, Any]] = {
    "sd15": _SD15,
    "sd21": _SD15
    | {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": _SD15
    | {
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
"""Name → entries: Stable Diffusion 1.5 (859,520,964 parameters), 2.1 (865,910,724; 2.1 of side 512
has sample_size 64) and XL (2,567,463,684)."""
