"""``s6``: Mamba's selective scan, a decay for every channel and number of its state.

    h_t = e^{Δ_t A} h_{t−1} + w_t B_t x_t      y_t = C_t · h_t + skip x_t

Gu & Dao 2023 (arXiv 2312.00752); here with steps that follow space and an exact hold, see
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
from latentsmith.backbones.scan import selective_scan
from latentsmith.config.schema import schema


@MIXERS.register("s6", help="Mamba's selective scans along curves, a decay a channel and state")
@schema
class S6MixerConfig(ScanMixerConfig):
    """Scans with a diagonal state of N numbers per channel."""

    kind: Literal["s6"] = "s6"
    rank: Annotated[int, Field(gt=0)] | None = None
    """Rank of the steps' projection. null: a sixteenth of the width, rounded up (Mamba's)."""
    backend: str = "chunk"
    """Which implementation of the scan, see ``latentsmith list``."""

    def build(self, width: int, layer: int = 0) -> "S6Mixer":
        """See `MixerConfig.build`."""
        return S6Mixer(width, self, self.lanes(layer))


class S6Mixer(ScanMixer):
    """See `S6MixerConfig`."""

    config: S6MixerConfig

    def __init__(self, width: int, config: S6MixerConfig, lanes: list[tuple[Curve, bool]]):
        rank = config.rank or -(-width // 16)
        super().__init__(width, config, lanes, reads=rank + 2 * config.state)
        self.rank, count = rank, len(lanes)
        self.widen = nn.Parameter(torch.empty(count, rank, self.inner))
        self.step_bias = nn.Parameter(torch.empty(count, self.inner))
        self.log_decay = nn.Parameter(torch.empty(count, self.inner, config.state))
        self.skip = nn.Parameter(torch.empty(count, self.inner))

    def reset(self, rng: torch.Generator) -> None:
        """See `Mixer.reset`: decays 1 … N (S4D-real)."""
        with torch.no_grad():
            bound = self.rank**-0.5
            self.widen.copy_((2 * torch.rand(self.widen.shape, generator=rng) - 1) * bound)
            self.step_bias.copy_(first_steps(tuple(self.step_bias.shape), rng, LONGEST))
            self.log_decay.copy_(torch.arange(1, self.config.state + 1).log())
            self.skip.fill_(1.0)

    def scan(self, x: Tensor, reads: Tensor, gaps: Tensor | None) -> Tensor:
        """See `ScanMixer.scan`."""
        c = self.config
        low, inward, outward = reads.split([self.rank, c.state, c.state], dim=-1)
        raw = torch.einsum("blgr,gri->blgi", low, self.widen.to(low.dtype))
        y = selective_scan(
            x.flatten(2),
            steps_of(raw, self.step_bias, gaps).flatten(2),
            -self.log_decay.exp().flatten(0, 1),
            inward,
            outward,
            self.skip.flatten(),
            rule=c.rule,
            backend=c.backend,
        ).y
        return y.unflatten(2, x.shape[2:])
