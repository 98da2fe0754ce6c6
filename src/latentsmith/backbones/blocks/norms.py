"""Normalizing tokens over their channels."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["layer", "rms"]
EPS = 1e-6  # of all published DiTs and SiTs


def normalize(x: Tensor, kind: Norm) -> Tensor:
    """x [..., D] without mean and with unit variance (``layer``), or with unit mean square
    (``rms``); the scale and shift after it are the modulation's."""
    if kind == "layer":
        return F.layer_norm(x, x.shape[-1:], eps=EPS)
    return F.rms_norm(x, x.shape[-1:], eps=EPS)


class HeadNorm(nn.Module):
    """Normalizes queries or keys [..., head] with a learned scale (QK-norm, Dehghani et al. 2023):
    keeps attention logits from growing in long or half-precision trainings."""

    def __init__(self, head: int, kind: Norm):
        super().__init__()
        self.kind: Norm = kind
        self.weight = nn.Parameter(torch.ones(head))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype."""
        weight = self.weight.to(x.dtype)  # autocast would widen layer_norm and slow rms_norm
        if self.kind == "layer":
            return F.layer_norm(x, x.shape[-1:], weight, eps=EPS).to(x.dtype)
        return F.rms_norm(x, x.shape[-1:], weight, eps=EPS).to(x.dtype)
