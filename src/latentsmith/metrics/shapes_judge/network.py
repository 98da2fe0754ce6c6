"""The judge's network: pictures → what lies in each cell of the 3 x 3 grid, and the background."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from latentsmith.data.shapes.scene import CELLS
from latentsmith.data.transforms import resize
from latentsmith.metrics.shapes_judge.tables import BACKGROUND_CLASSES, CLASSES

SIDE = 64
"""Pixels the network sees, whatever the pictures have."""


class Scores(NamedTuple):
    """Logits."""

    presence: Tensor
    """[B, 9]"""
    attributes: tuple[Tensor, Tensor, Tensor]
    """Shape, color, size: [B, 9, classes] each."""
    background: Tensor
    """[B, 4]"""

    def tables(self) -> Tensor:
        """The likeliest reading: tables by cell, int64 [B, 10, 4]."""
        there = self.presence > 0
        cells = torch.arange(len(CELLS), device=there.device).expand(there.shape)
        named = [scores.argmax(2) for scores in self.attributes]
        objects = torch.stack([*named, cells], 2)
        objects = torch.where(there[:, :, None], objects, -1)
        whole = torch.full_like(objects[:, :1], -1)
        whole[:, 0, 0], whole[:, 0, 1] = self.background.argmax(1), there.sum(1)
        return torch.cat([whole, objects], 1)


class JudgeNet(nn.Module):
    """Images [B, 3, H, W] in [0, 1] → `Scores`.

    Convolutions down to 8 x 8, whose windows of 4 x 4 at a stride of 2 are the grid's cells: their
    centers lie at 0.25, 0.5 and 0.75 of the side, the cells' at 0.22, 0.5 and 0.78.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        w = width
        self.trunk = nn.Sequential(
            *_layer(3, w, 4, stride=2, padding=1),
            *_layer(w, 2 * w, 3, padding=1),
            *_layer(2 * w, 2 * w, 3, stride=2, padding=1),
            *_layer(2 * w, 2 * w, 3, padding=1),
            *_layer(2 * w, 4 * w, 3, stride=2, padding=1),
            *_layer(4 * w, 4 * w, 4, stride=2),
        )
        self.cells = nn.Conv2d(4 * w, 1 + sum(CLASSES[:3]), 1)
        self.background = nn.Linear(4 * w, BACKGROUND_CLASSES)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Scores:
        """Logits of each cell and of the background."""
        x = resize(images, (SIDE, SIDE)).contiguous(memory_format=torch.channels_last)
        features = self.trunk(2 * x - 1)  # [B, 4w, 3, 3]
        scores = self.cells(features).flatten(2).transpose(1, 2)  # [B, 9, 20]
        presence, shape, color, size = scores.split([1, *CLASSES[:3]], 2)
        background = self.background(features.mean((2, 3)))
        return Scores(presence[..., 0], (shape, color, size), background)


def _layer(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0
) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
