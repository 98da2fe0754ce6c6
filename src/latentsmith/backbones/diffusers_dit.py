"""Weights of ``diffusers.DiTTransformer2DModel`` in our network."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from latentsmith.backbones.dit import DiT, DiTConfig
from latentsmith.backbones.export import fill
from latentsmith.errors import UserError
from latentsmith.utils.weights import UNREADABLE, diffusers_is_quiet, reason

FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
}


def from_diffusers_dit(source: Any, *, spacing: Literal[0, 1] = 1) -> DiT:
    """A network with the weights and, to rounding, the output of a diffusers DiT; float32, in
    evaluation mode. Step i of diffusers is t = (i + 1) / 1000.

    Args:
        source: a ``DiTTransformer2DModel``, or a folder or hub id that its ``from_pretrained``
            takes.
        spacing: of the time frequencies. 1 computes what diffusers computes. 0 is what the
            published DiT weights were trained with: diffusers' conversion of them shifted the
            frequencies by less than 1 %.

    Raises:
        UserError: settings our network does not have, or blocks with time and label embedders of
            their own (diffusers keeps a copy in each block, and training makes them differ).
    """
    model = _load(source) if isinstance(source, str | Path) else source
    given = model.config
    other = [f"{k}={given[k]}" for k, value in FIXED.items() if given[k] != value]
    channels, outputs = given.in_channels, given.out_channels or given.in_channels
    if outputs not in (channels, 2 * channels):
        other.append(f"{outputs} output channels for {channels}")
    if other:
        raise UserError(f"this DiTTransformer2DModel has {', '.join(other)}, our network cannot")
    config = DiTConfig(
        size=None,
        width=given.num_attention_heads * given.attention_head_dim,
        depth=given.num_layers,
        heads=given.num_attention_heads,
        patch=given.patch_size,
        learn_sigma=outputs == 2 * channels,
        time_spacing=spacing,
    )
    side = given.sample_size
    with torch.device("meta"):
        backbone = config.build((channels, side, side), given.num_embeds_ada_norm)
    state = {k: v.detach().float() for k, v in model.state_dict().items()}
    fill(backbone, _rename(state, config), "the DiTTransformer2DModel")
    return backbone.eval()


def _load(source: str | Path) -> Any:
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    try:
        with diffusers_is_quiet():
            return DiTTransformer2DModel.from_pretrained(str(source))
    except UNREADABLE as error:
        raise UserError(
            f"cannot load {str(source)!r} as a DiTTransformer2DModel: {reason(error)}"
        ) from error


def _rename(state: dict[str, Tensor], config: DiTConfig) -> dict[str, Tensor]:
    """diffusers' names → ours; the first block's embedders stand for all."""
    out = {"patches.weight": state["pos_embed.proj.weight"].flatten(1)}
    out["label.weight"] = state[_embedder(0) + "class_embedder.embedding_table.weight"]
    for end in ("weight", "bias"):
        pairs = {
            "final.modulation": "proj_out_1",
            "final.linear": "proj_out_2",
            "time.fc1": _embedder(0) + "timestep_embedder.linear_1",
            "time.fc2": _embedder(0) + "timestep_embedder.linear_2",
        }
        for number in range(config.shape()[1]):
            ours, theirs = f"blocks.{number}", f"transformer_blocks.{number}"
            pairs |= {
                f"{ours}.modulation": f"{theirs}.norm1.linear",
                f"{ours}.attn.proj": f"{theirs}.attn1.to_out.0",
                f"{ours}.mlp.fc1": f"{theirs}.ff.net.0.proj",
                f"{ours}.mlp.fc2": f"{theirs}.ff.net.2",
            }
            parts = [state[f"{theirs}.attn1.to_{part}.{end}"] for part in "qkv"]
            out[f"{ours}.attn.qkv.{end}"] = torch.cat(parts)
        out |= {f"{ours}.{end}": state[f"{theirs}.{end}"] for ours, theirs in pairs.items()}
    out["patches.bias"] = state["pos_embed.proj.bias"]
    for name, value in state.items():
        if ".norm1.emb." in name:
            first = _embedder(0) + name.split(".norm1.emb.")[1]
            if not torch.equal(value, state[first]):
                raise UserError(
                    f"{name} differs from {first}: diffusers' class gives each block embedders of "
                    "its own, and these have been trained apart; our network has one for all"
                )
    return out


def _embedder(block: int) -> str:
    return f"transformer_blocks.{block}.norm1.emb."
