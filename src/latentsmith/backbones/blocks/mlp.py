"""The channel mixers of transformer blocks."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.blocks.weights import Linear

MLPKind = Literal["gelu", "swiglu"]


class MLP(nn.Module):
    """Linear, GELU (tanh approximation), linear: [..., D] → [..., D]."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """fc2(SiLU(a) b) with a, b = fc1(x) (Shazeer 2020): [..., D] → [..., D]."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = Linear(width, 2 * hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        a, b = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(a) * b)


def mlp(kind: MLPKind, width: int, ratio: float) -> nn.Module:
    """``gelu`` with ``ratio`` x width hidden channels, or ``swiglu`` with 2/3 of them (the same
    number of weights), rounded up to a multiple of 8."""
    if kind == "gelu":
        return MLP(width, round(ratio * width))
    return SwiGLU(width, -(-round(ratio * width * 2 / 3) // 8) * 8)
