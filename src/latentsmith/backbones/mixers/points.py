"""A set of points and its orders along curves, each found once however many layers ask."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from latentsmith.backbones.blocks.curves import Curve, Ordering, order


@dataclass
class Points:
    """Coordinates [B, L, d] in [-1, 1] (B = 1: the same for every sample), with what layers want
    to know of them.

    Layers, and the steps of a sampler, that share this object share its sorts.
    """

    coordinates: Tensor
    _orders: dict[tuple[Curve, bool], Ordering] = field(default_factory=dict, repr=False)
    _weights: dict[Curve, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """L"""
        return self.coordinates.shape[1]

    def along(self, curve: Curve, *, backward: bool = False) -> Ordering:
        """The points' order along ``curve``, from its start or from its end."""
        key = curve, backward
        if key not in self._orders:
            self._orders[key] = (
                self.along(curve).reversed() if backward else order(self.coordinates, curve)
            )
        return self._orders[key]

    def weights(self, curve: Curve = "hilbert") -> Tensor:
        """Share of the domain that each point stands for, [B, L], summing to 1."""
        if curve not in self._weights:
            self._weights[curve] = self.along(curve).weights()
        return self._weights[curve]

    def joined(self, other: "Points") -> "Points":
        """These points, then ``other``'s."""
        count = max(len(self.coordinates), len(other.coordinates))
        both = [p.coordinates.expand(count, -1, -1) for p in (self, other)]
        return Points(torch.cat(both, dim=1))
