"""Weights in the layout of the published DiT and SiT checkpoints, in both directions.

The layout (Peebles & Xie 2023; SiT and REPA kept it) is the same network under other names. What
differs between its users is the meaning of time and output, with our t = 0 data, t = 1 noise:

    dit   sees the step index i = 1000 t − 1, predicts the noise (and a variance)
    sit   sees 1 − t, predicts the velocity towards the data, −dz/dt: the output layer is negated
    repa  sees t, predicts dz/dt: as ours
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from latentsmith.backbones.blocks.positions import sincos_2d
from latentsmith.backbones.dit import (
    SIZES,
    DiT,
    DiTConfig,
    SiTConfig,
    Size,
    TransformerConfig,
)
from latentsmith.backbones.export import check_state, fill
from latentsmith.errors import UserError
from latentsmith.utils.weights import read_tensors

Layout = Literal["dit", "sit", "repa"]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Convention:
    """How a family of checkpoints means time and output."""

    config: type[SiTConfig] | type[DiTConfig]
    time_scale: float
    time_shift: float
    negated: bool


CONVENTIONS: dict[Layout, Convention] = {
    "dit": Convention(DiTConfig, 1000.0, -1.0, negated=False),
    "sit": Convention(SiTConfig, -1.0, 1.0, negated=True),
    "repa": Convention(SiTConfig, 1.0, 0.0, negated=False),
}

# theirs, ours
NAMES = (
    ("x_embedder.proj.", "patches."),
    ("t_embedder.mlp.0.", "time.fc1."),
    ("t_embedder.mlp.2.", "time.fc2."),
    ("y_embedder.embedding_table.", "label."),
    ("final_layer.", "final."),
    ("adaLN_modulation.1.", "modulation."),
)


def load_published(
    path: Path | str,
    layout: Layout,
    *,
    heads: int | None = None,
    weights: Literal["ema", "model"] = "ema",
) -> DiT:
    """A network from a published checkpoint, float32, in evaluation mode.

    Args:
        path: .pt or .safetensors; a bare state dict, or a training checkpoint with ``ema`` and
            ``model`` in it.
        layout: whose convention of time and output, see the module's text. It cannot be seen in
            the weights, and a wrong one gives pure noise.
        heads: attention heads; needed for widths that are not a published size's.
        weights: which of a training checkpoint's.

    Raises:
        UserError: the file cannot be read, or is not in this layout (naming the weights).
    """
    return from_published(read_state(Path(path), weights), layout, heads=heads, where=str(path))


def read_state(path: Path, weights: Literal["ema", "model"] = "ema") -> State:
    """The tensors in a .pt or .safetensors file; nothing in it is executed."""
    # training checkpoints of SiT and REPA hold their command line, a harmless class
    held = read_tensors(path, known=[argparse.Namespace])
    if isinstance(held, dict) and ("ema" in held or "model" in held):
        if weights not in held:
            raise UserError(f"{path} holds {sorted(held)}, no {weights!r}: choose weights")
        held = held[weights]
    if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
        raise UserError(f"{path} holds no state dict: give one, or a dict with it under 'ema'")
    return dict(held)


def from_published(
    state: Mapping[str, Tensor],
    layout: Layout,
    *,
    heads: int | None = None,
    where: str = "the state dict",
) -> DiT:
    """As `load_published`, from tensors; they are not changed."""
    state = {k: v for k, v in state.items() if layout != "repa" or not k.startswith("projectors.")}
    convention = CONVENTIONS[layout]
    config, latent_shape, classes = _read_shape(state, convention, heads, where)
    with torch.device("meta"):
        backbone = config.build(latent_shape, classes)
    expected = _outward(backbone.state_dict(), backbone)
    check_state({k: tuple(v.shape) for k, v in expected.items()}, state, where)
    positions = sincos_2d(backbone.width, backbone.grid)
    if (state["pos_embed"][0].double() - positions).abs().max() > 1e-4:
        raise UserError(
            f"pos_embed of {where} is not the published sin-cos table of a "
            f"{backbone.grid[0]} x {backbone.grid[1]} grid: such positions cannot be loaded"
        )
    fill(backbone, _inward(state, backbone, convention.negated), where)
    return backbone.eval()


def to_published(backbone: DiT) -> State:
    """The weights in the published layout, in the convention `layout_of` names; copies.

    Raises:
        UserError: the network is none the layout can hold.
    """
    negated = CONVENTIONS[layout_of(backbone)].negated
    state = {k: v.detach() for k, v in backbone.state_dict().items()}
    for name in ("final.linear.weight", "final.linear.bias"):
        state[name] = _negate(state[name], backbone) if negated else state[name]
    state = {k: v.clone() for k, v in _outward(state, backbone).items()}
    state["pos_embed"] = sincos_2d(backbone.width, backbone.grid)[None].to(state["pos_embed"])
    return state


def layout_of(backbone: DiT) -> Layout:
    """The convention a network's weights are in.

    Raises:
        UserError: it has parts or a meaning of time or output that no published layout has.
    """
    config = backbone.config
    plain = SiTConfig()
    same = ("mlp", "norm", "qk_norm", "position", "time_spacing")
    other = [f"{n}={getattr(config, n)}" for n in same if getattr(config, n) != getattr(plain, n)]
    if backbone.classes is None:
        other.append("no classes")
    if backbone.grid[0] != backbone.grid[1]:
        other.append(f"a grid of {backbone.grid[0]} x {backbone.grid[1]}")
    if other:
        raise UserError(f"the published layout cannot hold a network with {', '.join(other)}")
    for name, convention in CONVENTIONS.items():
        time = config.time_scale, config.time_shift
        predicts = convention.config.predicts
        if time == (convention.time_scale, convention.time_shift) and config.predicts == predicts:
            return name
    raise UserError(
        f"no published convention has time_scale {config.time_scale:g}, time_shift "
        f"{config.time_shift:g} and predicts {config.predicts}; they are {CONVENTIONS}"
    )


def _read_shape(
    state: Mapping[str, Tensor], convention: Convention, heads: int | None, where: str
) -> tuple[TransformerConfig, tuple[int, int, int], int]:
    """(config, latent shape, classes) as the tensors say."""
    ranks = {
        "x_embedder.proj.weight": 4,
        "pos_embed": 3,
        "y_embedder.embedding_table.weight": 2,
        "blocks.0.mlp.fc1.weight": 2,
        "final_layer.linear.weight": 2,
    }
    lacking = [k for k, rank in ranks.items() if k not in state or state[k].ndim != rank]
    if lacking:
        raise UserError(
            f"{where} is not in the published DiT layout: it lacks {', '.join(lacking)} (it has "
            f"{', '.join(list(state)[:4]) or 'nothing'} …)"
        )
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    side = math.isqrt(state["pos_embed"].shape[1])
    depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
    if heads is None:
        heads = next((h for w, _, h in SIZES.values() if w == width), None)
    if heads is None:
        raise UserError(
            f"the number of heads of {where} cannot be seen in its weights, and width {width} is "
            f"none of the published sizes' (those are {SIZES}): give heads"
        )
    size: Size | None = next(
        (name for name, shape in SIZES.items() if shape == (width, depth, heads)), None
    )
    config = convention.config(
        size=size,
        width=None if size else width,
        depth=None if size else depth,
        heads=None if size else heads,
        patch=patch,
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        learn_sigma=state["final_layer.linear.weight"].shape[0] == 2 * channels * patch**2,
        time_scale=convention.time_scale,
        time_shift=convention.time_shift,
    )
    classes = len(state["y_embedder.embedding_table.weight"]) - 1
    return config, (channels, side * patch, side * patch), classes


def _outward(state: Mapping[str, Tensor], backbone: DiT) -> State:
    """Our names and shapes → theirs; ``pos_embed`` [1, N, D] is made without its numbers."""
    out: State = {}
    for name, value in state.items():
        for theirs, ours in NAMES:
            name = name.replace(ours, theirs)
        out[name] = value
    channels, p = backbone.latent_shape[0], backbone.config.patch
    patches = out["x_embedder.proj.weight"]
    out["x_embedder.proj.weight"] = patches.reshape(-1, channels, p, p)
    out["pos_embed"] = patches.new_empty(1, math.prod(backbone.grid), backbone.width)
    return out


def _inward(state: Mapping[str, Tensor], backbone: DiT, negated: bool) -> State:
    """Their names and shapes → ours, float32."""
    out: State = {}
    for name, value in state.items():
        for theirs, ours in NAMES:
            name = name.replace(theirs, ours)
        out[name] = value.float()
    del out["pos_embed"]
    out["patches.weight"] = out["patches.weight"].flatten(1)
    for name in ("final.linear.weight", "final.linear.bias") if negated else ():
        out[name] = _negate(out[name], backbone)
    return out


def _negate(rows: Tensor, backbone: DiT) -> Tensor:
    """The output layer's weight or bias with the sample's rows negated, which is exact; a learned
    variance keeps its sign."""
    channels, p = backbone.latent_shape[0], backbone.config.patch
    signs = torch.ones(len(rows) // p**2)
    signs[:channels] = -1
    return rows * signs.to(rows).repeat(p * p).view(-1, *[1] * (rows.ndim - 1))
