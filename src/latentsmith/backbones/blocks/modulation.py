"""AdaLN-zero: time and class scale, shift and gate what the blocks do (Peebles & Xie 2023)."""

import torch
from torch import Tensor

from latentsmith.backbones.blocks.weights import Linear


class Modulation(Linear):
    """``count`` vectors [B, 1, D] from the activated condition [B, D], zero at the start."""

    def __init__(self, width: int, count: int):
        super().__init__(width, count * width)
        self.count = count

    def vectors(self, c: Tensor) -> tuple[Tensor, ...]:
        """c [B, D] (after SiLU, which all blocks share) → ``count`` views [B, 1, D]."""
        return self(c).unflatten(1, (self.count, 1, -1)).unbind(1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift in one pass over x [B, N, D]."""
    return torch.addcmul(shift, x, 1 + scale)


def gated(x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """x + gate · update in one pass over x [B, N, D]."""
    return torch.addcmul(x, gate, update)
