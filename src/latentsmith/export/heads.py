"""Alignment heads as safetensors, and as a few lines of plain torch."""

from pathlib import Path
from typing import Any

from torch import nn

from latentsmith.backbones.base import Backbone, Tap
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.backbones.unet_taps import path_of
from latentsmith.diffusion.align import SETTINGS, WEIGHTS, Aligner
from latentsmith.export.part import Part

TIMED = (
    "These heads also take the time: `Aligner.load(folder, backbone)` of "
    "`latentsmith.diffusion.align` reads them."
)


def write_heads(aligner: Aligner, backbone: Backbone, folder: Path) -> Part:
    """Write ``alignment.safetensors`` and ``alignment.json`` into ``folder``."""
    aligner.save(folder)
    names = ", ".join(f"`{tap}`" for tap in aligner.taps)
    path = f"{WEIGHTS}, {SETTINGS}"
    what = f"alignment heads on block {names}, to a teacher's {aligner.teacher_dim} numbers a token"
    if aligner.config.time_head:
        return Part(path, what, note=TIMED)
    places = "; ".join(f"`{tap}`: {_place(backbone, tap)}" for tap in aligner.taps)
    note = (
        "A head takes its block's tokens [N, rows x columns, width], row by row (of a map: "
        f"`map.flatten(2).mT`), to the teacher's space. {places}."
    )
    return Part(path, what, _code(aligner), note)


def _place(backbone: Backbone, tap: Tap) -> str:
    width, (rows, columns) = backbone.tap_shape(tap)
    tokens = f"{rows} x {columns} tokens of {width}"
    if not isinstance(backbone, SDUNet):
        return tokens
    return f"the output of the U-Net's `{path_of(backbone.unet, tap)}`, {tokens}"


def _code(aligner: Aligner) -> str:
    lines = ["import torch", "from safetensors.torch import load_file", ""]
    lines += [f'state, heads = load_file("{WEIGHTS}"), {{}}']
    for number, tap in enumerate(aligner.taps):
        head: Any = aligner.heads[number]
        start = f"heads.{number}.net."
        own = f'{{k[{len(start)}:]: v for k, v in state.items() if k.startswith("{start}")}}'
        lines += [
            f"heads[{tap!r}] = torch.nn.Sequential({', '.join(map(_layer, head.net))})",
            f"heads[{tap!r}].load_state_dict({own})",
        ]
    return "\n".join(lines) + "\n"


def _layer(layer: nn.Module) -> str:
    if not isinstance(layer, nn.Linear):
        return f"torch.nn.{type(layer).__name__}()"
    bias = "" if layer.bias is not None else ", bias=False"
    return f"torch.nn.Linear({layer.in_features}, {layer.out_features}{bias})"
