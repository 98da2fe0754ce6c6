"""Features inside a U-Net: where they are, and how to take them without touching the network.

Blocks are numbered in the order they run: down_blocks.0 is 1, …, mid_block, up_blocks.0, …
Three have names; every module has its path. Hooks are there during one forward pass only, so the
recomputation of gradient checkpointing (in the backward pass) meets none.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from latentsmith.backbones.base import Tap
from latentsmith.errors import UserError

NAMES = ("enc_last", "mid", "dec_first")
"""Output of the last down block, of the middle block, of the first up block."""


def blocks_of(unet: Any) -> list[str]:
    """Paths of the blocks in the order they run: tap n is the n-th."""
    down = [f"down_blocks.{i}" for i in range(len(unet.down_blocks))]
    up = [f"up_blocks.{i}" for i in range(len(unet.up_blocks))]
    return [*down, "mid_block", *up]


def path_of(unet: Any, tap: Tap) -> str:
    """The path of the module that ``tap`` means.

    Raises:
        UserError: there is no such block or module.
    """
    blocks = blocks_of(unet)
    middle = blocks.index("mid_block")
    named: dict[str, str] = dict(zip(NAMES, blocks[middle - 1 : middle + 2], strict=True))
    if isinstance(tap, int):
        if not 1 <= tap <= len(blocks):
            raise UserError(f"there is no block {tap}: blocks are 1 … {len(blocks)}")
        return blocks[tap - 1]
    path = named.get(tap, tap)
    try:
        unet.get_submodule(path)
    except AttributeError as error:
        raise UserError(
            f"the U-Net has no module {tap!r}: give a number 1 … {len(blocks)}, one of "
            f"{', '.join(NAMES)}, or a path such as {blocks[middle]}.attentions.0"
        ) from error
    return path


def modules_of(unet: Any, taps: Mapping[Tap, str]) -> dict[Tap, nn.Module]:
    """Tap → module, of tap → path.

    Raises:
        UserError: a module that torch.compile has taken in: its hooks are compiled with it or
            overlooked, so its output could be an older call's.
    """
    for path in taps.values():
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            inside = ".".join(parts[:end])
            if getattr(unet.get_submodule(inside), "_compiled_call_impl", None) is not None:
                raise UserError(
                    f"no features can be taken at {path!r}: {inside!r} is compiled. Take a block's "
                    f"({', '.join(NAMES)} or a number), or do not compile"
                )
    return {tap: unet.get_submodule(path) for tap, path in taps.items()}


@contextmanager
def tapped(modules: Mapping[Tap, nn.Module]) -> Iterator[dict[Tap, Tensor]]:
    """Collects the outputs of ``modules`` while they run inside; the hooks are gone afterwards,
    however it ends.

    Yields a dict that fills: tap → the first tensor of the module's output, with its graph. Only
    a module's *first* call counts: what a backward pass recomputes inside is another tensor.
    """
    seen: dict[Tap, Tensor] = {}
    handles = []
    try:
        for tap, module in modules.items():
            handles.append(module.register_forward_hook(_keeper(seen, tap)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keeper(seen: dict[Tap, Tensor], tap: Tap) -> Any:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if tap not in seen:  # down blocks give (output, skip connections)
            seen[tap] = output if isinstance(output, Tensor) else output[0]

    return keep


def as_tokens(value: Tensor) -> Tensor:
    """A map [B, D, h, w] as tokens [B, h w, D] in raster order, a view; tokens stay."""
    return value.flatten(2).transpose(1, 2) if value.ndim == 4 else value


def grid_of(value: Tensor, sides: tuple[int, int], where: str) -> tuple[int, int]:
    """(rows, columns) of a map, or of tokens [B, N, D] of a latent of ``sides``.

    Raises:
        UserError: it is neither a map nor tokens of a halved grid.
    """
    if value.ndim == 4:
        return value.shape[2], value.shape[3]
    rows, columns = sides
    while value.ndim == 3 and rows and columns:
        if rows * columns == value.shape[1]:
            return rows, columns
        rows, columns = rows // 2, columns // 2
    raise UserError(
        f"{where} puts out {list(value.shape)}, no map [B, D, h, w] and no tokens of one: choose a "
        "block, a residual block or an attention layer"
    )


def up_to(unet: Any, paths: list[str]) -> Any:
    """A U-Net that shares all modules with ``unet`` but ends after the block in which the last of
    ``paths`` runs: its hooks see the same, its output means nothing. ``unet`` is not changed.
    """
    blocks = blocks_of(unet)
    ends = []
    for path in paths:
        holder = next((b for b in blocks if path == b or path.startswith(b + ".")), None)
        early = path.startswith(("conv_in", "time_", "add_"))
        ends.append(0 if early else blocks.index(holder) + 1 if holder else len(blocks) + 1)
    count, middle = max(ends), blocks.index("mid_block")
    if count > len(blocks):
        return unet  # something after the last block
    short = copy.copy(unet)
    short._modules = dict(unet._modules)  # a shallow copy shares the dict itself
    short.down_blocks = unet.down_blocks[:count]
    short.up_blocks = unet.up_blocks[: max(0, count - middle - 1)]
    if count <= middle:
        short.mid_block = None
    short.conv_norm_out = None
    short.conv_out = nn.Identity()
    return short
