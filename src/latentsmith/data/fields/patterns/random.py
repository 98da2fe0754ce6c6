"""``random``: other points for every signal and every step."""

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.fields.patterns.base import PATTERNS, PatternConfig, scores


@PATTERNS.register("random", help="points drawn without replacement, others for every signal")
@schema
class RandomConfig(PatternConfig):
    """Uniform without replacement."""

    kind: Literal["random"] = "random"

    def build(self) -> "Random":
        """The pattern."""
        return Random()


class Random:
    """See `RandomConfig`."""

    def pick(
        self, batch: int, size: Sequence[int], count: int, generator: torch.Generator
    ) -> Tensor:
        """int64 [batch, count]"""
        return scores(batch, prod(size), generator).topk(count, dim=1).indices
