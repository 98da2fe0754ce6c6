"""Hilbert keys of integer coordinates, by table.

Bit by bit from the top, a Hilbert curve says which of 2^d sub-cubes comes when, and in which
orientation the curve runs through it (Hamilton & Rau-Chaplin, Compact Hilbert indices, 2007,
algorithm 2: the state is an entry corner and a direction). That is an automaton of 4 states in two
dimensions and 12 in three, so several bits at once are one look-up: two of 8 bits an axis for a
key of 32 bits, where Skilling's loop takes some 200 operations.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from latentsmith.utils.constant import constant

BITS_AT_ONCE = {2: 8, 3: 4}
"""Most bits of each axis in one look-up, by dimensions: tables of 2 MB and 400 KB."""

State = tuple[int, int]
"""Entry corner and direction of the curve in a cube."""


def hilbert_keys(cells: Tensor, bits: int) -> Tensor:
    """Position along the curve: int64 [..., d] in [0, 2^bits) → int64 [...] in [0, 2^(d bits)).

    Args:
        cells: integer coordinates, d = 1, 2, 3.
        bits: of each axis.
    """
    dims = cells.shape[-1]
    if dims == 1:
        return cells[..., 0]
    step = next(s for s in (8, 4, 2, 1) if s <= BITS_AT_ONCE[dims] and bits % s == 0)
    table = _table(dims, step, cells.device)
    low = (1 << step) - 1
    keys = state = torch.zeros_like(cells[..., 0])
    for shift in range(bits - step, -1, -step):
        index = state
        for along in cells.unbind(-1):
            index = (index << step) | ((along >> shift) & low)
        found = table[index]
        keys = (keys << dims * step) | (found & ((1 << dims * step) - 1))
        state = found >> dims * step
    return keys


@constant
def _table(dims: int, step: int, device: torch.device) -> Tensor:
    """int64 [states * 2^(d step)]: (next state << d step) | key, at (state, axis 0's bits, …)."""
    keys, states = _automaton(dims)
    for _ in range(step.bit_length() - 1):  # 1 → 2 → 4 → 8 bits of each axis
        keys, states = _doubled(keys, states, dims)
    return ((states << dims * step) | keys).flatten().to(device)


def _doubled(keys: Tensor, states: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Twice as many bits at once: [S, 2^(d g)] → [S, 2^(2 d g)], both of them."""
    size = keys.shape[1]
    bits = (size.bit_length() - 1) // dims
    index = torch.arange(size * size)
    high = low = torch.zeros_like(index)
    for along in range(dims - 1, -1, -1):  # axis 0 lies in the highest bits
        part = index >> along * 2 * bits
        high = (high << bits) | ((part >> bits) & ((1 << bits) - 1))
        low = (low << bits) | (part & ((1 << bits) - 1))
    middle = states[:, high]
    return keys[:, high] * size + keys[middle, low], states[middle, low]


def _automaton(dims: int) -> tuple[Tensor, Tensor]:
    """(which comes when, state inside) of every sub-cube, one bit of each axis: int64 [S, 2^d].

    Only the states that the curve reaches are numbered."""
    numbers: dict[State, int] = {(0, 0): 0}
    keys, states = [], []
    for state in _growing(numbers):
        key_row, state_row = [], []
        for corner in range(1 << dims):
            when, after = _step(state, corner, dims)
            key_row.append(when)
            state_row.append(numbers.setdefault(after, len(numbers)))
        keys.append(key_row)
        states.append(state_row)
    return torch.tensor(keys), torch.tensor(states)


def _growing(numbers: dict[State, int]) -> Iterator[State]:
    """The keys of a dict in order, those added meanwhile, too."""
    done = 0
    while done < len(numbers):
        yield list(numbers)[done]
        done += 1


def _step(state: State, corner: int, dims: int) -> tuple[int, State]:
    """(when the curve of this state visits the corner, its state in there)."""
    entry, direction = state
    gray = _rotate_left(corner ^ entry, -(direction + 1), dims)
    when = gray
    for shift in range(1, dims):
        when ^= gray >> shift
    first = 0 if when == 0 else _gray(2 * ((when - 1) // 2))
    turn = 0 if when == 0 else _trailing_ones(when if when % 2 else when - 1) % dims
    entry ^= _rotate_left(first, direction + 1, dims)
    return when, (entry, (direction + turn + 1) % dims)


def _gray(number: int) -> int:
    return number ^ (number >> 1)


def _trailing_ones(number: int) -> int:
    return ((number + 1) & ~number).bit_length() - 1


def _rotate_left(number: int, by: int, width: int) -> int:
    by %= width
    return ((number << by) | (number >> (width - by))) & ((1 << width) - 1)
