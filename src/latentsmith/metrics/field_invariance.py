"""Is a decoder a function of the coordinate, and a code one of the signal?

A decoder whose queries mix gives another value at one point when other points are asked along with
it. A code that depends on where samples fell says something about the mask. Neither needs truth.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_finite
from latentsmith.metrics.field_values import decibels, squared_error

Decode = Callable[[Tensor], Tensor]
"""coordinates [B, M, d] → values [B, M, C], the codes of B signals already inside."""
Encode = Callable[[Tensor, Tensor], Tensor]
"""coordinates [B, N, d], values [B, N, C] → codes [B, …]."""
OTHERWISE = ("one", "1 %", "10 %", "permuted", "repeated")
"""How points are asked again, see `query_invariance`."""


@dataclass(frozen=True)
class Agreement:
    """Two decodings of the same points."""

    worst: float
    """Largest absolute difference."""
    psnr: Tensor
    """[B] in dB at peak 2, at most 126."""


@torch.no_grad()
def query_invariance(
    decode: Decode,
    coordinates: Tensor,
    generator: torch.Generator,
    *,
    ways: Collection[str] = OTHERWISE,
    whole: Tensor | None = None,
) -> dict[str, Agreement]:
    """Points decoded with all others against the same points decoded otherwise.

    Args:
        decode: see `Decode`.
        coordinates: [B, M, d], M >= 2, e.g. a grid.
        generator: chooses the subsets; on the CPU.
        ways: which of `OTHERWISE` are tried.
        whole: what ``decode`` makes of all of them [B, M, C], where it is known already.

    Returns:
        ``one``: a single point; ``1 %`` and ``10 %`` of the points; ``permuted``: all in another
        order; ``repeated``: 10 % of them, each ten times.

    Raises:
        UserError: fewer than 2 points, another number of values, NaN.
    """
    count = coordinates.shape[1]
    if count < 2:
        raise UserError(f"query invariance needs at least 2 points, got {count}.")
    if whole is None:
        whole = _decoded(decode, coordinates)
    mixed = torch.randperm(count, generator=generator).to(coordinates.device)
    one, tenth = mixed[:1], mixed[: max(1, count // 10)]
    subsets = {
        "one": one,
        "1 %": mixed[: max(1, count // 100)],
        "10 %": tenth,
        "permuted": mixed,
        "repeated": tenth.repeat_interleave(10),
    }
    return {
        name: _agree(_decoded(decode, coordinates[:, index]), whole[:, index])
        for name, index in subsets.items()
        if name in ways
    }


def _decoded(decode: Decode, coordinates: Tensor) -> Tensor:
    values = decode(coordinates.contiguous())
    if values.shape[:2] != coordinates.shape[:2]:
        raise UserError(
            f"decode gave {list(values.shape)} for coordinates {list(coordinates.shape)}."
        )
    return check_finite(values, "decoded values")


def _agree(values: Tensor, other: Tensor) -> Agreement:
    return Agreement(
        float((values.double() - other.double()).abs().max()),
        decibels(squared_error(values, other)),
    )


@torch.no_grad()
def input_stability(
    encode: Encode, coordinates: Tensor, values: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """How much codes change with the points they are made of: ‖z - z'‖ / ‖z‖, float64 [B] each.

    Args:
        encode: see `Encode`.
        coordinates, values: known points [B, N, d], [B, N, C], N >= 4.
        generator: chooses the halves and the order; on the CPU.

    Returns:
        ``halves``: the codes of two disjoint halves; ``quarter``: of a quarter of the points
        against all; ``permuted``: of all in another order (rounding, for a set encoder).

    Raises:
        UserError: fewer than 4 points, NaN, a code of length 0.
    """
    count = coordinates.shape[1]
    if count < 4:
        raise UserError(f"input stability needs at least 4 points, got {count}.")
    mixed = torch.randperm(count, generator=generator).to(coordinates.device)

    def code(index: Tensor) -> Tensor:
        made = encode(coordinates[:, index], values[:, index]).flatten(1).double()
        return check_finite(made, "codes")

    half = count // 2
    whole = code(torch.arange(count, device=mixed.device))
    return {
        "halves": _change(code(mixed[:half]), code(mixed[half : 2 * half])),
        "quarter": _change(whole, code(mixed[: count // 4])),
        "permuted": _change(whole, code(mixed)),
    }


def _change(code: Tensor, other: Tensor) -> Tensor:
    norm = code.norm(dim=1)
    if not norm.all():
        raise UserError("input stability is undefined: a code is zero (collapsed).")
    return (code - other).norm(dim=1) / norm
