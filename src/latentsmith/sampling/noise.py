"""Noise that belongs to a sample, not to a moment.

Sample i's starting noise and its noise at step k are pure functions of (seed, i, k, shape):
results do not depend on the batch size, on the companions in the batch or on the rank. One
generator per sample and step would cost up to 40 % of the drawing itself (latents of 4,096
numbers), so samples share one per block of 8: that costs 5 %, and at most 7 rows too many are drawn
at each end of a batch. Drawn on the CPU, so that every device starts from the same noise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.utils.seeding import stream_seed

BLOCK = 8

StepNoise = Callable[[int, tuple[int, ...]], Tensor]
"""(step 0, 1, …; shape without the batch) → standard normal noise [B, *shape]."""


def starting_noise(seed: int, indices: Sequence[int] | Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal noise float32 [B, *shape] on the CPU.

    Args:
        seed: of the whole set of samples.
        indices: which samples [B], non-negative, any order, repeats allowed.
        shape: of one sample.

    Raises:
        UserError: a negative index.
    """
    return _normals((seed, "starting noise"), _plan(indices), len(indices), tuple(shape))


@dataclass(frozen=True)
class NoiseSource:
    """Noise that stochastic samplers add at their steps, for one batch of samples.

    Args:
        seed: of the whole set of samples, the same as that of `starting_noise`.
        indices: which samples the batch holds [B], non-negative.
        device: where the noise is wanted.
    """

    seed: int
    indices: Sequence[int] | Tensor
    device: torch.device | str = "cpu"
    _blocks: list[tuple[int, slice | Tensor, Tensor]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_blocks", _plan(self.indices))

    def __call__(self, step: int, shape: Sequence[int]) -> Tensor:
        """Standard normal noise float32 [B, *shape] of one step."""
        names = (self.seed, "step noise", step)
        noise = _normals(names, self._blocks, len(self.indices), tuple(shape))
        return noise.to(self.device)


def _plan(indices: Sequence[int] | Tensor) -> list[tuple[int, slice | Tensor, Tensor]]:
    """(block, rows of the batch, rows of the block); whole blocks in order as slices."""
    where = torch.as_tensor(indices, dtype=torch.int64).cpu()
    if len(where) and int(where.min()) < 0:
        raise UserError(f"sample numbers start at 0, got {int(where.min())}")
    blocks, every = where // BLOCK, torch.arange(BLOCK)
    plan: list[tuple[int, slice | Tensor, Tensor]] = []
    for block in blocks.unique().tolist():
        rows = (blocks == block).nonzero()[:, 0]
        inside = where[rows] % BLOCK
        if torch.equal(inside, every) and torch.equal(rows - rows[0], every):
            plan.append((block, slice(int(rows[0]), int(rows[0]) + BLOCK), inside))
        else:
            plan.append((block, rows, inside))
    return plan


def _normals(
    names: tuple[int | str, ...],
    plan: list[tuple[int, slice | Tensor, Tensor]],
    count: int,
    shape: tuple[int, ...],
) -> Tensor:
    out = torch.empty(count, math.prod(shape))
    rng = torch.Generator()
    for block, rows, inside in plan:
        rng.manual_seed(stream_seed(*names, block))
        if isinstance(rows, slice):
            torch.randn(BLOCK, out.shape[1], generator=rng, out=out[rows])
        else:
            out[rows] = torch.randn(BLOCK, out.shape[1], generator=rng)[inside]
    return out.view(count, *shape)
