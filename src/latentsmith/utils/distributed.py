"""Which process this is, and a gather that gradients pass through.

Losses over pairs of samples need every process's samples. The rules (they are often got wrong):

* the gather's backward **sums** the gradient over processes and returns the own slice;
* data parallelism **averages** parameter gradients over processes.

With both, an objective written as "every process computes the same loss of the global batch" has
exactly the gradient one process would get on the joined batch. A gather without gradient would
give 1/world_size of it; a loss of local pairs only is another objective altogether.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from latentsmith.errors import UserError


def is_distributed() -> bool:
    """True when a process group of more than one process is up."""
    return world_size() > 1


def rank() -> int:
    """This process's index in [0, world_size); 0 when not distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes; 1 when not distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _counts(x: Tensor) -> list[int]:
    """How many samples each process holds. Every process learns every shape, so that all raise
    together and none is left waiting."""
    own = torch.tensor([x.shape[0], math.prod(x.shape[1:])], device=x.device)
    shapes = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(shapes, own)
    counts, sizes = torch.stack(shapes).T.tolist()
    if len(set(sizes)) > 1:
        raise UserError(
            f"the processes hold samples of unequal size ({sizes} numbers each, in order of "
            "rank): all must have one resolution."
        )
    return counts


def _joined(x: Tensor, counts: list[int]) -> Tensor:
    """The rows of all processes, of which process k has ``counts[k]``."""
    most = max(counts)
    padded = x.contiguous()
    if len(x) < most:
        padded = x.new_zeros(most, *x.shape[1:])
        padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return _joined(x, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # clone: all_reduce writes in place and the incoming gradient is not ours
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = sum(ctx.counts[: rank()])
        return total[start : start + ctx.counts[rank()]], None


def gather_with_grad(x: Tensor) -> Tensor:
    """Join the batches of all processes, in order of rank; differentiable.

    Args:
        x: [B, …] on every process, which all must call this; B may differ. Either every process
            differentiates the result or none does: the backward pass is a collective too.

    Returns:
        [sum of B, …]; ``x`` itself when not distributed. The backward pass sums the gradients of
        all processes and keeps the own rows (see the module's rules, which hold for any B).

    Raises:
        UserError: on every process, when the samples' sizes differ.
    """
    if not is_distributed():
        return x
    return _Gather.apply(x, _counts(x))  # type: ignore[return-value]


def _on_wire(x: Tensor) -> Tensor:
    """``x`` where the process group can send it from."""
    on_gpu = dist.get_backend() == "nccl" and not x.is_cuda
    return (x.cuda() if on_gpu else x).contiguous()


def gather_rows(x: Tensor) -> Tensor:
    """Join the rows of all processes, in order of rank; counts may differ, no gradient.

    Args:
        x: [n, …] with any n, also 0, on every process, which all must call this.

    Returns:
        [sum of n, …] on every process, on the device of ``x``; ``x`` itself when not distributed.
        With contiguous parts (`latentsmith.data.order.rank_slice`) that is the whole in its order.

    Raises:
        UserError: on every process, when the rows' shapes or types differ.
    """
    if not is_distributed():
        return x
    own = (tuple(x.shape), str(x.dtype))
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, own)
    shapes = [shape for shape, _ in found]
    if len({(shape[1:], dtype) for shape, dtype in found}) > 1:
        raise UserError(
            f"the processes hold rows of different kinds ({found}, in order of rank): "
            "all must use one model and one precision."
        )
    return _joined(_on_wire(x.detach()), [shape[0] for shape in shapes]).to(x.device)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Elementwise sum over processes, a new tensor, the same on all; ``x`` when not distributed."""
    if not is_distributed():
        return x
    total = _on_wire(x.detach()).clone()
    dist.all_reduce(total)
    return total.to(x.device)


def from_main(value: Any) -> Any:
    """Rank 0's picklable ``value``, on every process; all must call this."""
    if not is_distributed():
        return value
    box = [value if rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def raise_together(own: UserError | None) -> None:
    """Raise UserError on every process when any has one; all must call this.

    Without it one process's error leaves the others waiting until a time-out.
    """
    if is_distributed():
        found: list[Any] = [None] * world_size()
        dist.all_gather_object(found, None if own is None else str(own))
        messages = [f"process {i}: {text}" for i, text in enumerate(found) if text is not None]
        if messages and len(set(found)) == 1:  # everybody's
            raise UserError(str(found[0])) from own
        if messages:
            raise UserError("\n".join(messages)) from own
    if own is not None:
        raise own
