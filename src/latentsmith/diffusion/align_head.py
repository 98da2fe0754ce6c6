"""What stands between a denoiser's tokens and a teacher's; trained with it, saved beside it."""

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.blocks.embedders import TimeEmbedder
from latentsmith.backbones.blocks.modulation import Modulation, modulate
from latentsmith.backbones.blocks.weights import draw
from latentsmith.utils.seeding import generator

Activation = Literal["silu", "gelu"]


class TokenProjector(nn.Module):
    """MLP from a network's tokens to a teacher's.

    A linear layer of tokens is a 1 x 1 convolution of the feature map: U-REPA's AlignHead is this
    with ``hidden=teacher_dim, layers=2, activation="gelu", last_bias=False``.

    Args:
        width: D of the network's tokens.
        teacher_dim: D of the teacher's.
        hidden: width in between.
        layers: linear layers; 1 is a linear map.
        activation: between them.
        last_bias: whether the last layer has a bias.
        seed: of the initial weights.
    """

    def __init__(
        self,
        width: int,
        teacher_dim: int,
        *,
        hidden: int = 2048,
        layers: int = 3,
        activation: Activation = "silu",
        last_bias: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        sizes = [width, *[hidden] * (layers - 1), teacher_dim]
        biases = [True] * (layers - 1) + [last_bias]
        linear = [
            nn.Linear(a, b, bias=bias) for (a, b), bias in zip(pairwise(sizes), biases, strict=True)
        ]
        rng = generator(seed, "token projector")
        for layer in linear:
            nn.init.xavier_uniform_(layer.weight, generator=rng)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        steps: list[nn.Module] = [linear[0]]
        for layer in linear[1:]:
            steps += [nn.SiLU() if activation == "silu" else nn.GELU(), layer]
        self.net = nn.Sequential(*steps)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, width] → [B, N, teacher_dim]."""
        return self.net(tokens)


class TimeShift(nn.Module):
    """Tokens scaled and shifted by the time they were seen at; the identity at the start.

    Args:
        dim: D of the tokens.
        seed: of the initial weights.
    """

    def __init__(self, dim: int, *, seed: int = 0):
        super().__init__()
        self.time = TimeEmbedder(dim, scale=1000.0, shift=0.0)
        self.modulation = Modulation(dim, 2)
        draw(self, seed, lambda name: 0.0 if "modulation" in name else 0.02)

    def forward(self, tokens: Tensor, t: Tensor) -> Tensor:
        """[B, N, D], t [B] in [0, 1] → [B, N, D]."""
        shift, scale = self.modulation.vectors(F.silu(self.time(t)))
        return modulate(tokens, shift, scale)
