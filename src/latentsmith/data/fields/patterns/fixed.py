"""``fixed``: sensors that stay where they are."""

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.fields.patterns.base import PATTERNS, PatternConfig
from latentsmith.utils.seeding import generator as stream


@PATTERNS.register("fixed", help="the same random points for every signal, step and run")
@schema
class FixedConfig(PatternConfig):
    """One seeded sequence of points; more points keep those of fewer."""

    kind: Literal["fixed"] = "fixed"
    seed: int = 0
    """Seeds where the points are."""

    def build(self) -> "Fixed":
        """The pattern."""
        return Fixed(self.seed)


class Fixed:
    """See `FixedConfig`."""

    def __init__(self, seed: int):
        self.seed = seed

    def pick(
        self, batch: int, size: Sequence[int], count: int, generator: torch.Generator
    ) -> Tensor:
        """int64 [batch, count], all rows alike; ``generator`` is not used."""
        places = torch.randperm(prod(size), generator=stream(self.seed, "fixed points", *size))
        return places[:count].to(generator.device).expand(batch, -1)
