"""Several directions along curves as one batched scan.

    x, z = in(tokens)                                  shared by all directions
    for each direction:  its own step, decay, B, C     from x, as Vim and VMamba do
    y = mean over directions of scan(x in that order)  back in the points' order
    out(rms(y · SiLU(z)))                              shared

The mean, not the sum: with a sum, activations grow with the number of directions, which is where
Vim's trainings went to NaN. Tokens are gathered into every direction's order with one call, and
the directions are groups of channels of one scan.

**Steps follow space** (``step: space``): Δ = softplus(·) · N_ref · (s_t − s_{t−1}), s the place
along the curve in [0, 1). Then the scan is a quadrature of ∫ e^{A (s − s')} B x ds', so a layer
means the same on 32² and on 96² points, a point given twice weighs no more than once, and a gap of
0 is padding. ``index`` steps are Mamba's, and change the operator with the density.

Source: spec/4-field-autoencoder.md "Sequence mixers".
"""

from dataclasses import field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.blocks.curves import Curve, Ordering
from latentsmith.backbones.blocks.norms import normalize
from latentsmith.backbones.blocks.weights import Linear
from latentsmith.backbones.mixers.base import Curves, Mixer, MixerConfig
from latentsmith.backbones.mixers.points import Points
from latentsmith.config.schema import schema

Step = Literal["space", "index"]
Rule = Literal["zoh", "trapezoid", "euler"]
SHORTEST, LONGEST = 1e-3, 1e-1
"""Steps at the start lie between these, evenly in their logarithm (Gu & Dao 2023)."""


@schema
class ScanMixerConfig(MixerConfig):
    """What the scanning mixers share."""

    curves: Curves = field(default_factory=lambda: ["hilbert", "hilbert_t"])
    """The orders that points are scanned in: hilbert, hilbert_t (its transpose), rows, columns."""
    alternate: bool = True
    """Each block scans along one of the curves, in turn, instead of along all of them."""
    backward: bool = True
    """Also scan each curve from its end."""
    state: Annotated[int, Field(gt=0)] = 16
    """Numbers N of state a channel (S6) or a head (SSD) carries along."""
    expand: Annotated[int, Field(gt=0)] = 1
    """Channels that are scanned, as a multiple of the width."""
    step: Step = "space"
    """space: the step is the gap along the curve; index: Mamba's, one for every point."""
    reference: Annotated[float, Field(gt=0)] = 256.0
    """step=space: the number of points at which the mean step is that of an index."""
    rule: Rule = "zoh"
    """What a point's input weighs: zoh (held over its step, exact), trapezoid (the mean of it and
    the one before), or euler (Mamba's: Δ B x, which explodes on uneven gaps)."""
    conv: Annotated[int, Field(ge=0)] = 0
    """Length of a causal convolution along the order, before the scan (Mamba's is 4). 0: none, as
    four points that happen to be neighbours along a curve are no neighbourhood."""

    def lanes(self, layer: int) -> list[tuple[Curve, bool]]:
        """The (curve, backward) a block scans along."""
        curves: list[Curve] = self.curves
        if self.alternate:
            curves = [curves[layer % len(curves)]]
        ways = (False, True) if self.backward else (False,)
        return [(curve, way) for curve in curves for way in ways]


class ScanMixer(Mixer):
    """See the module's text. Subclasses say what is read from a channel, and how it is scanned.

    Args:
        width: of the tokens.
        lanes: (curve, backward) of each direction.
        reads: numbers a direction's scan reads at each token besides the channels themselves.
    """

    def __init__(
        self, width: int, config: ScanMixerConfig, lanes: list[tuple[Curve, bool]], reads: int
    ):
        super().__init__()
        self.config, self.lanes, self.inner = config, lanes, config.expand * width
        self.into = Linear(width, 2 * self.inner)
        self.reads = Linear(self.inner, len(lanes) * reads, bias=False)
        self.out = Linear(self.inner, width)
        self.norm = _Scale(self.inner)
        channels = len(lanes) * self.inner
        self.conv = _CausalConv(channels, config.conv) if config.conv else None

    def scan(self, x: Tensor, reads: Tensor, gaps: Tensor | None) -> Tensor:
        """All directions at once.

        Args:
            x: [B, L, G, inner], each direction in its own order.
            reads: [B, L, G, R].
            gaps: [B, L, G] of the steps, or None where steps are by index.

        Returns:
            [B, L, G, inner]
        """
        raise TypeError(f"{type(self).__name__} has no scan()")

    def forward(self, x: Tensor, points: Points) -> Tensor:
        """See `Mixer.forward`."""
        x, z = self.into(x).chunk(2, dim=-1)
        lanes = [points.along(curve, backward=back) for curve, back in self.lanes]
        y = self._back(self._scan(x, lanes), lanes)
        return self.out(self.norm(y.to(x.dtype) * F.silu(z)))

    def _scan(self, x: Tensor, lanes: list[Ordering]) -> Tensor:
        count = len(lanes)
        reads = self.reads(x).unflatten(2, (count, -1)).unbind(2)
        there = [lane.sort(torch.cat([x, r], dim=-1)) for r, lane in zip(reads, lanes, strict=True)]
        ordered = torch.stack(there, dim=2)  # [B, L, G, inner + R]
        x, r = ordered.split([self.inner, ordered.shape[-1] - self.inner], dim=-1)
        if self.conv is not None:
            x = self.conv(x)
        gaps = None
        if self.config.step == "space":
            gaps = torch.stack([lane.gaps.expand(x.shape[0], -1) for lane in lanes], dim=2)
            gaps = self.config.reference * gaps
        return self.scan(x, r, gaps)

    def _back(self, y: Tensor, lanes: list[Ordering]) -> Tensor:
        """[B, L, G, inner] in the directions' orders → their mean [B, L, inner] in the points'."""
        parts = [lane.unsort(part) for part, lane in zip(y.unbind(2), lanes, strict=True)]
        return torch.stack(parts).mean(0)


def steps_of(raw: Tensor, bias: Tensor, gaps: Tensor | None) -> Tensor:
    """softplus(raw + bias) in float32, times the gaps [B, L, G] where steps follow space."""
    step = F.softplus(raw.float() + bias)
    return step if gaps is None else step * gaps.unsqueeze(-1)


def first_steps(shape: tuple[int, ...], rng: torch.Generator, longest: float) -> Tensor:
    """Biases under which steps start log-uniform in [SHORTEST, ``longest``]."""
    low, high = torch.tensor([SHORTEST, longest], dtype=torch.float64).log()
    step = (low + (high - low) * torch.rand(shape, generator=rng, dtype=torch.float64)).exp()
    return (step + torch.log(-torch.expm1(-step))).float()  # softplus⁻¹


class _Scale(nn.Module):
    """RMS norm with a learned scale."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, "rms") * self.weight.to(x.dtype)


class _CausalConv(nn.Module):
    """Depthwise, along the order: [B, L, G, inner] → the same."""

    def __init__(self, channels: int, length: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, length))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        y = F.pad(x.flatten(2).mT, (self.weight.shape[2] - 1, 0))
        y = F.conv1d(y, self.weight.to(y.dtype), self.bias.to(y.dtype), groups=len(self.weight))
        return F.silu(y).mT.reshape(shape)
