"""Tensors of which every process holds a part (FSDP's `DTensor`), beside ordinary ones."""

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether this is one process's part of a tensor."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it, sharing memory; call it without grad."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[operator]


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor that every process has, sharded like another. Nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(whole.to(like.device), mesh, placements, src_data_rank=None)


@torch.no_grad()
def copy_into(target: Tensor, whole: Tensor) -> None:
    """Overwrite ``target``, be it sharded or not, by a whole tensor."""
    target.copy_(part_of(whole, target) if is_sharded(target) else whole)


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of it, on every process: all must call this for a sharded one."""
    return tensor.detach().full_tensor() if is_sharded(tensor) else tensor  # type: ignore[operator]


def whole(tensors: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Sharded tensors gathered one at a time, which all processes must call.

    Args:
        keep: whether this process wants them, then on the CPU; others help and get nothing.
    """
    found = {}
    for name, tensor in tensors.items():
        full = whole_tensor(tensor)
        if keep:
            found[name] = full.cpu() if is_sharded(tensor) else full
    return found
