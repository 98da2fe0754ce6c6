"""``block``: nothing is known in one block."""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.fields.patterns.base import PATTERNS, PatternConfig, scores


@PATTERNS.register("block", help="random points outside a block that is missing")
@schema
class BlockConfig(PatternConfig):
    """Uniform without replacement outside a block of the lattice's proportions, placed anew for
    every signal."""

    kind: Literal["block"] = "block"
    missing: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the domain the block takes."""

    def build(self) -> "Block":
        """The pattern."""
        return Block(self.missing)


class Block:
    """See `BlockConfig`."""

    def __init__(self, missing: float):
        self.missing = missing

    def pick(
        self, batch: int, size: Sequence[int], count: int, generator: torch.Generator
    ) -> Tensor:
        """int64 [batch, n], n = count where so many lie outside the block, else all that do."""
        inside = torch.ones(batch, 1, dtype=torch.bool, device=generator.device)
        sides = [max(1, round(points * self.missing ** (1 / len(size)))) for points in size]
        for points, side in zip(size, sides, strict=True):
            places = points - side + 1
            start = torch.randint(places, (batch, 1), generator=generator, device=generator.device)
            at = torch.arange(points, device=generator.device) - start
            within = (at >= 0) & (at < side)  # [batch, points]
            inside = (inside[:, :, None] & within[:, None, :]).flatten(1)
        outside = prod(size) - prod(sides)
        drawn = scores(batch, prod(size), generator).masked_fill(inside, -1)
        return drawn.topk(max(1, min(count, outside)), dim=1).indices
