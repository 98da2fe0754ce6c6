"""Weights without surprises: nothing is drawn until a network draws all of them, each from a
stream named after it; constants survive casts and the meta device."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from latentsmith.utils.seeding import generator


class Linear(nn.Linear):
    """``nn.Linear`` that leaves its numbers to `draw`: building a network neither touches the
    global generator nor initializes twice."""

    def reset_parameters(self) -> None:
        """Nothing."""


@torch.no_grad()
def draw(network: nn.Module, seed: int, spread: Callable[[str], float | None]) -> None:
    """Initialize every parameter, as a function of (seed, its name, its shape).

    Vectors are 0, except the weights of norms, which are 1. ``spread(name)`` of a matrix is its
    standard deviation (0 gives zeros), or None for Xavier's uniform distribution: what DiT
    (Peebles & Xie 2023) and SiT start from.
    """
    for name, parameter in network.named_parameters():
        if parameter.is_meta:
            continue
        std = spread(name)
        if parameter.ndim == 1:
            parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        elif std == 0:
            parameter.zero_()
        else:
            # drawn on the CPU: the same numbers on every device
            rng, values = generator(seed, "weights", name), torch.empty(parameter.shape)
            if std is None:
                nn.init.xavier_uniform_(values, generator=rng)
            else:
                values.normal_(0.0, std, generator=rng)
            parameter.copy_(values)


class Constant(nn.Module):
    """Fixed numbers on the network's device, never learned and never saved.

    ``make()`` gives them on the CPU, in float64 where that says more: a module-level function or
    `functools.partial`, so that the network can be pickled. They are made anew whenever the module
    is moved or cast. So they are at least float32 in a half-precision network (a frequency in
    bfloat16 is a wrong frequency), and real after ``to_empty`` from the meta device.
    """

    values: Tensor

    def __init__(self, make: Callable[[], Tensor]):
        super().__init__()
        self.make = make
        # beside the parameters, wherever ``with torch.device`` puts those
        device, dtype = torch.get_default_device(), torch.get_default_dtype()
        self.register_buffer("values", make().to(device, dtype), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        dtype = torch.promote_types(self.values.dtype, torch.float32)
        if not self.values.is_meta:
            self.values = self.make().to(self.values.device, dtype)
        return self

    def forward(self) -> Tensor:
        """The numbers."""
        return self.values
