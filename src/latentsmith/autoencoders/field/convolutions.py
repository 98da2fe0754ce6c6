"""Tokens on a grid that hear from their neighbours: blocks of convolutions.

    x = x + conv(gelu(conv(x)))        3 tokens along each dimension

Nothing is normalized, as in networks for super-resolution (EDSR, Lim et al. 2017, arXiv
1707.02921): how much a token has to say is in the size of its numbers. The second convolution
starts at 0, so that blocks start as the identity.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Convolution(nn.Module):
    """``width`` to ``width`` channels over 3 tokens along each of ``dims`` dimensions; zeros lie
    around the grid. `latentsmith.backbones.blocks.weights.draw` gives it its weights."""

    def __init__(self, width: int, dims: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width, *(3,) * dims))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, side, …] → the same shape."""
        conv = (F.conv1d, F.conv2d, F.conv3d)[self.weight.ndim - 3]
        return conv(x, self.weight, self.bias, padding=1)


class ConvolutionBlock(nn.Module):
    """See the module's text."""

    def __init__(self, width: int, dims: int):
        super().__init__()
        self.first = Convolution(width, dims)
        self.second = Convolution(width, dims)

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, side, …] → the same shape."""
        return x + self.second(F.gelu(self.first(x), approximate="tanh"))


class TokenGrid(nn.Module):
    """Blocks of convolutions over the tokens of a grid.

    Args:
        width: channels W.
        depth: blocks.
        side: tokens along each dimension.
        dims: dimensions d of the grid.
    """

    def __init__(self, width: int, depth: int, side: int, dims: int):
        super().__init__()
        self.sizes = (side,) * dims
        self.blocks = nn.Sequential(*(ConvolutionBlock(width, dims) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, side^d, W] in raster order → the same shape."""
        return self.blocks(x.mT.unflatten(2, self.sizes)).flatten(2).mT
