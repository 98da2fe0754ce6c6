"""Averages of loss parts between two records, without waiting for the device every step."""

from typing import Any

import torch
from torch import Tensor

from latentsmith.training.team import Team


class Meter:
    """Running sums of named scalars that stay on the device until `flush`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}

    def add(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        """Count ``value`` (a scalar without graph) with ``weight``."""
        value = value.float() * weight
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0.0) + weight

    def flush(self, team: Team) -> dict[str, float]:
        """Weighted means, averaged over processes, then start afresh. One synchronisation."""
        if not self._sums:
            return {}
        names = list(self._sums)  # the same order on every process: they run the same task
        means = torch.stack([self._sums[n] / self._counts[n] for n in names])
        self._sums, self._counts = {}, {}
        return dict(zip(names, team.mean(means).tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """JSON-able; float32 sums survive JSON exactly. Non-finite sums as strings."""
        return {n: [repr(float(s)), self._counts[n]] for n, s in self._sums.items()}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Inverse of `state`."""
        self._sums = {n: torch.tensor(float(s), device=device) for n, (s, _) in state.items()}
        self._counts = {n: count for n, (_, count) in state.items()}
