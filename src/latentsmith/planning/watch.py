"""What passes through a step: work, traffic, and how much is alive at once.

What autograd keeps for the backward pass is alive, so it is counted; so are gradients and what one
operator hands to the next. What an operator uses inside is its own affair (a convolution's
workspace).
"""

import bisect
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentsmith.planning.flops import flops_of

REST = "rest"
"""Label of what belongs to no part: losses, online references."""


@dataclass(frozen=True)
class Op:
    """One operator: whose it is, which way, FLOPs, bytes it reads and writes."""

    label: str
    backward: bool
    flops: int
    moved: int


class Watch(TorchDispatchMode):
    """Everything done inside, on tensors with or without numbers.

    Args:
        parts: label → a module whose work is told apart.

    Attributes:
        now: bytes alive of all tensors made inside. peak: the most so far.
        ops: in order; views and empty tensors are none.
    """

    def __init__(self, parts: Mapping[str, nn.Module] | None = None):
        super().__init__()
        self.now, self.peak, self.ops = 0, 0, list[Op]()
        self._known: dict[int, weakref.ref[Any]] = {}
        self._owner = _Owner(parts or {})

    def __enter__(self) -> "Watch":
        self._owner.attach()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._owner.detach()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in given:  # weights, of which some outputs are views
            self._see(tensor, made=False)
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._see(tensor, made=True)
        self.peak = max(self.peak, self.now)
        if _works(func):
            moved = sum(_touched(tensor) for tensor in (*given, *made))
            self.ops.append(Op(*self._owner.now(), flops_of(func, args, kwargs, out), moved))
        return out

    def _see(self, tensor: Tensor, *, made: bool) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes() if made else 0
        if key in self._known:
            return

        def gone(_: Any) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size


class _Owner:
    """Whose an operator is: forward, of the module that is running; backward, of the module that
    was running when the node at work was made (nodes are numbered in that order)."""

    def __init__(self, parts: Mapping[str, nn.Module]):
        self.parts = parts
        self._running: list[str] = []
        self._begins, self._labels = [0], [REST]
        self._hooks: list[Any] = []

    def attach(self) -> None:
        # on every module inside: a part's methods may be called, not the part
        for label, part in self.parts.items():
            for module in part.modules():
                self._hooks += [
                    module.register_forward_pre_hook(self._enters(label)),
                    module.register_forward_hook(self._leaves, always_call=True),
                ]

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def now(self) -> tuple[str, bool]:
        """(label, whether this is the backward pass)."""
        node = torch._C._current_autograd_node()
        if self._running:  # also what is recomputed in the backward pass
            return self._running[-1], node is not None
        if node is None:
            return REST, False
        at = bisect.bisect_right(self._begins, node._sequence_nr()) - 1
        return self._labels[at], True

    def _enters(self, label: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._running.append(label)
            self._mark(label)

        return enter

    def _leaves(self, *_: Any) -> None:
        self._running.pop()
        self._mark(self._running[-1] if self._running else REST)

    def _mark(self, label: str) -> None:
        if label != self._labels[-1]:
            number = torch._C._autograd._get_sequence_nr()  # pyright: ignore[reportAttributeAccessIssue]
            self._begins.append(number)
            self._labels.append(label)


def _works(func: Any) -> bool:
    """Whether an operator reads or writes numbers. (Fake tensors are asked for their device.)"""
    return not (func.is_view or func.namespace == "prim" or func.name().startswith("aten::empty"))


def _touched(tensor: Tensor) -> int:
    """Bytes of a tensor; an expanded one has fewer than its shape says."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def size(tensors: Any) -> int:
    """Bytes of tensors, each storage once."""
    found = {id(t.untyped_storage()): t.untyped_storage().nbytes() for t in tensors}
    return sum(found.values())
