"""From what conditions a network to its width: time, class, text."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.blocks.norms import Norm, normalize
from latentsmith.backbones.blocks.positions import BASE
from latentsmith.backbones.blocks.weights import Constant, Linear


def time_frequencies(count: int, spacing: int) -> Tensor:
    """BASE^(−k / (count − spacing)), [count], with the rounding of float32: at step 999 it moves
    the published networks' cosines by 1e-5 to 1e-4, and they were trained with it."""
    k = torch.arange(count, dtype=torch.float32, device="cpu")
    return torch.exp(-math.log(BASE) * k / (count - spacing))


class TimeEmbedder(nn.Module):
    """Time as cosines and sines of ``waves`` / 2 frequencies, through an MLP: [B] → [B, width].

    Args:
        width: channels D.
        scale, shift: the network sees ``scale`` t + ``shift``. DiT sees the index of its 1000
            steps, 1000 t − 1; SiT a number in [0, 1].
        spacing: of the frequencies 10000^(−k / (128 − spacing)): 0 in DiT and SiT, 1 in diffusers.
        waves: 256 in all published networks.
    """

    def __init__(
        self, width: int, *, scale: float, shift: float, spacing: int = 0, waves: int = 256
    ):
        super().__init__()
        self.scale, self.shift = scale, shift
        self.frequencies = Constant(partial(time_frequencies, waves // 2, spacing))
        self.fc1 = Linear(waves, width)
        self.fc2 = Linear(width, width)

    def waves(self, t: Tensor) -> Tensor:
        """t [B] → cosines and sines [B, 256], float32 (float64 in a float64 network)."""
        frequencies = self.frequencies()
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        seen = (self.scale * t + self.shift).to(frequencies.dtype)
        angles = seen[:, None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)

    def forward(self, t: Tensor) -> Tensor:
        """t [B] in [0, 1], float64 where the index of a discrete step must be exact."""
        return self.fc2(F.silu(self.fc1(self.waves(t).to(self.fc1.weight.dtype))))


class LabelEmbedder(nn.Module):
    """A vector for each class, and one more, the last, for "no class": [B] → [B, width]."""

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes + 1, width))

    def forward(self, label: Tensor) -> Tensor:
        """label int64 [B] in 0 … classes."""
        return F.embedding(label, self.weight)


class TextEmbedder(nn.Module):
    """Text embeddings, normalized, through an MLP: [B, L, E] → [B, L, width].

    The MLP is PixArt-α's (Chen et al. 2023, arXiv 2310.00426): one projection, however many blocks
    look at the text. Normalized first, because text encoders differ in scale by orders of magnitude
    (T5 against a sentence encoder) and attention would be sharp or flat from the start.
    """

    def __init__(self, text_width: int, width: int, norm: Norm):
        super().__init__()
        self.norm: Norm = norm
        self.fc1 = Linear(text_width, width)
        self.fc2 = Linear(width, width)

    def forward(self, text: Tensor) -> Tensor:
        """text [B, L, E] of any float dtype."""
        x = normalize(text.to(self.fc1.weight.dtype), self.norm)
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
