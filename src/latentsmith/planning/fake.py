"""Networks and batches without memory: shapes, dtypes and lifetimes are real, numbers are not.

PyTorch's fake tensors, on the CPU: unlike ``meta`` they take generators and autocast, and attention
takes the form that keeps no L × L matrix, as on a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from latentsmith.errors import UserError

M = TypeVar("M", bound=nn.Module)


class _NothingWrong(TorchDispatchMode):
    """Answers whoever asks tensors for their numbers, so that no check finds a fault: yes to "are
    all …", no to "is any …" (a label out of range, a token of length 0), 0 for other numbers. Of
    what a mask selects, all; of what is found by looking (``nonzero``: pairs too near), nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._all = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            kind = args[0].dtype
            if kind == torch.bool:
                return args[0] in self._all
            return 0.0 if kind.is_floating_point else 0
        if func is torch.ops.aten.nonzero.default:
            return args[0].new_empty((0, args[0].ndim), dtype=torch.int64)
        if func is torch.ops.aten.masked_select.default:
            return args[0].flatten().clone()
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten.all:
            self._all[out] = None
        return out


@contextmanager
def without_memory() -> Iterator[None]:
    """Everything made inside is a fake tensor. Random seeds outside are left as they are.

    Raises:
        UserError: shapes of what is done inside depend on numbers, of which there are none.
    """
    state = torch.random.get_rng_state()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), _NothingWrong():
            yield
    except DynamicOutputShapeException as error:
        raise UserError(
            f"this cannot be planned: a step's shapes depend on the numbers in them ({error.func})"
        ) from error
    finally:
        torch.random.set_rng_state(state)


def emptied(module: M) -> M:
    """``module``, its parameters and buffers (real, or on ``meta``) made fake, in place: they stay
    the objects they are, so whoever holds a parameter holds it still. Inside `without_memory`."""
    seen: set[int] = set()
    for owner in module.modules():
        for tensor in (*owner._parameters.values(), *owner._buffers.values()):
            if tensor is None or isinstance(tensor, FakeTensor) or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            made = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu"
            )
            made.requires_grad_(tensor.requires_grad)
            if isinstance(tensor, nn.Parameter):  # what nn.Parameter does, which keeps a weak
                made._is_param = True  # reference besides, and such tensors cannot be swapped
            torch.utils.swap_tensors(tensor, made)
    return module
