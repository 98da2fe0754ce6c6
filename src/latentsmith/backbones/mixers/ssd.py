"""``ssd``: Mamba-2's scan, one decay for each head: matrix products, and the default.

    h_t = e^{Δ_t a} h_{t−1} + w_t B_t x_tᵀ      y_t = C_t h_t + skip x_t

Dao & Gu 2024 (arXiv 2405.21060); here with steps that follow space and an exact hold, see
`latentsmith.backbones.mixers.directions`.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from latentsmith.backbones.blocks.curves import Curve
from latentsmith.backbones.mixers.base import MIXERS
from latentsmith.backbones.mixers.directions import (
    LONGEST,
    ScanMixer,
    ScanMixerConfig,
    first_steps,
    steps_of,
)
from latentsmith.backbones.scan import ssd_scan
from latentsmith.config.schema import schema

SLOWEST, FASTEST = 1.0, 16.0
"""Decays at the start lie between these (Mamba-2)."""


@MIXERS.register("ssd", help="Mamba-2 scans along curves, one decay a head: the fast one")
@schema
class SSDMixerConfig(ScanMixerConfig):
    """Scans with a scalar decay per head."""

    kind: Literal["ssd"] = "ssd"
    head: Annotated[int, Field(gt=0)] = 32
    """Channels of a head: divides expand x width."""
    backend: str = "chunk"
    """Which implementation of the scan, see ``latentsmith list``."""

    def build(self, width: int, layer: int = 0) -> "SSDMixer":
        """See `MixerConfig.build`. Raises ValueError for a head that does not divide the width."""
        if self.expand * width % self.head:
            raise ValueError(f"mixer.head {self.head} does not divide {self.expand * width}")
        return SSDMixer(width, self, self.lanes(layer))


class SSDMixer(ScanMixer):
    """See `SSDMixerConfig`."""

    config: SSDMixerConfig

    def __init__(self, width: int, config: SSDMixerConfig, lanes: list[tuple[Curve, bool]]):
        heads = config.expand * width // config.head
        super().__init__(width, config, lanes, reads=heads + 2 * config.state)
        self.heads = heads
        shape = len(lanes), heads
        self.log_decay = nn.Parameter(torch.empty(shape))
        self.step_bias = nn.Parameter(torch.empty(shape))
        self.skip = nn.Parameter(torch.empty(shape))

    def reset(self, rng: torch.Generator) -> None:
        """See `Mixer.reset`."""
        with torch.no_grad():
            spread = torch.rand(self.log_decay.shape, generator=rng)
            self.log_decay.copy_((SLOWEST + (FASTEST - SLOWEST) * spread).log())
            self.step_bias.copy_(first_steps(tuple(self.step_bias.shape), rng, LONGEST))
            self.skip.fill_(1.0)

    def scan(self, x: Tensor, reads: Tensor, gaps: Tensor | None) -> Tensor:
        """See `ScanMixer.scan`."""
        c = self.config
        step, inward, outward = reads.split([self.heads, c.state, c.state], dim=-1)
        y = ssd_scan(
            x.unflatten(-1, (self.heads, c.head)).flatten(2, 3),  # [B, L, G heads, head]
            steps_of(step, self.step_bias, gaps).flatten(2),
            -self.log_decay.exp().flatten(),
            inward,
            outward,
            self.skip.flatten(),
            rule=c.rule,
            backend=c.backend,
        ).y
        return y.flatten(2).unflatten(2, x.shape[2:])
