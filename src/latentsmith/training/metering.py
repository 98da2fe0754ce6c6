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
        """Weighted means over all processes, then start afresh. All of them must call this; one
        that has not met a name (no text in its part of a batch) counts for nothing in it."""
        names = list(dict.fromkeys(name for some in team.names(list(self._sums)) for name in some))
        if not names:
            return {}
        nothing = torch.zeros((), device=team.device)
        sums = torch.stack([self._sums.get(n, nothing) for n in names])
        counts = torch.tensor([self._counts.get(n, 0.0) for n in names], device=team.device)
        self._sums, self._counts = {}, {}
        return dict(zip(names, (team.sum(sums) / team.sum(counts)).tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """JSON-able; float32 sums survive JSON exactly. Non-finite sums as strings."""
        return {n: [repr(float(s)), self._counts[n]] for n, s in self._sums.items()}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Inverse of `state`."""
        self._sums = {n: torch.tensor(float(s), device=device) for n, (s, _) in state.items()}
        self._counts = {n: count for n, (_, count) in state.items()}
