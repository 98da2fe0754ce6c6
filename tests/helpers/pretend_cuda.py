"""A GPU that is not there, for tests of where tensors are.

Numbers are computed on the CPU, and every storage knows the device it would be on. Asked for its
device a tensor says so, and what a GPU would refuse is refused: two devices in one operation, a CPU
generator for a draw there, ``numpy()`` of what is there. So code for a GPU runs where there is
none, up to kernels and time.

Not seen: ``torch.compile``, sparse tensors, and operations that move a tensor without saying so.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentsmith.training.team import Team

HERE, THERE = torch.device("cpu"), torch.device("cuda", 0)
ANYWHERE = {"copy_", "_to_copy", "_local_scalar_dense", "set_", "resize_"}
"""Operations that may have tensors of two devices."""


@contextlib.contextmanager
def pretend_cuda() -> Iterator[None]:
    """Inside, ``team.device`` is a GPU, and tensors are where they are put."""
    with pytest.MonkeyPatch.context() as patch:
        _replace(patch)
        with _modes():
            yield


@contextlib.contextmanager
def _modes() -> Iterator[None]:
    """Of one thread."""
    with _Operations(), _Functions():
        yield


def place(tensor: Tensor) -> torch.device:
    """Where it would be."""
    return _told(tensor) or HERE


def _told(tensor: Tensor) -> torch.device | None:
    """None: made inside PyTorch, where it knows a device that is not seen here."""
    return getattr(tensor.untyped_storage(), "pretended", None)


def put(tensor: Tensor, device: torch.device) -> Tensor:
    """It, and all that share its memory, would be there now."""
    tensor.untyped_storage().pretended = device
    return tensor


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(tree: Any) -> list[Tensor]:
    found = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return [t for t in found if t.layout == torch.strided]


class _Move(torch.autograd.Function):
    """A copy on another device. Its gradient goes back to where the tensor was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, device: torch.device) -> Tensor:
        ctx.back = place(x)
        return put(x.clone(), device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return put(gradient.clone(), ctx.back), None


class _Operations(TorchDispatchMode):
    """What comes out is where what went in was, all of which must be in one place."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors((args, kwargs))
        where = _common_place(func, args, tensors)
        out = func(*args, **kwargs)
        for tensor in _tensors(out):
            if where is not None and _told(tensor) is None:
                put(tensor, where)
        return out


def _common_place(func: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> torch.device | None:
    """Raises RuntimeError where tensors are in two places. A number of the CPU may join others."""
    name = func._schema.name.partition("::")[2]
    tensors = [t for t in tensors if t.device.type == "cpu"]  # not those on "meta"
    places = {_told(t) for t in tensors if t.ndim > 0} - {None}
    numbers = {_told(t) for t in tensors if t.ndim == 0} - {None}
    if name in ANYWHERE:
        return _told(args[0])
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        # indices of the CPU are moved there
        of_values = {_told(t) for t in (args[0], *args[2:3]) if t.ndim > 0} - {None}
        places = of_values if THERE in of_values else places
    if len(places) > 1 or (places == {HERE} and THERE in numbers):
        told = ", ".join(f"{list(t.shape)} on {_told(t)}" for t in tensors)
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {told}")
    found = places or (numbers if THERE in numbers else set())
    return next(iter(found), None)


class _Generator(torch.Generator):
    """Knows where it draws."""

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        made = super().__new__(cls)
        made.pretended = _device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.pretended


def _check_generator(func: Any, kwargs: dict[str, Any], where: torch.device) -> None:
    found = getattr(kwargs.get("generator"), "device", where)
    if found.type != where.type:
        told = f"expected a '{where.type}' device type for generator but found '{found.type}'"
        raise RuntimeError(f"{func.__name__}: {told}")


class _Functions(TorchFunctionMode):
    """Devices that are named: asked for, moved to, made on."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = _tensors((args, kwargs))
        for tensor in given:
            put(tensor, place(tensor))
        if func in _ANSWERS:
            return _ANSWERS[func](*args, **kwargs)
        if func is torch._C._nn._parse_to:
            return func(*args, **kwargs)
        kwargs.pop("pin_memory", None)  # there is none without a GPU
        named = kwargs.pop("device", None)
        device = _device(named) if named is not None else place(given[0]) if given else HERE
        _check_generator(func, kwargs, device)
        if named is None:
            out = func(*args, **kwargs)
            for tensor in _tensors([out]):
                put(tensor, place(tensor))
            return out
        out = func(*args, **kwargs, device=device if device.type == "meta" else HERE)
        if device.type == "meta":
            return out
        # as_tensor and the like give back what they were given
        same = _memory(out) in {_memory(t) for t in given}
        return _moved_from(out, device) if same else put(out, device)


def _to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    copy = kwargs.pop("copy", False)
    if args and isinstance(args[0], Tensor):
        other, args = args[0], args[1:]
        args = (place(other), other.dtype, *args)
    device, dtype, non_blocking, memory = torch._C._nn._parse_to(*args, **kwargs)
    if device is not None and device.type == "meta":
        return x.to(device, dtype)
    like = {} if memory is None else {"memory_format": memory}
    out = x.to(dtype or x.dtype, non_blocking, copy=copy, **like)
    return out if device is None else _moved_from(out, _device(device))


def _moved_from(x: Tensor, device: torch.device) -> Tensor:
    return x if place(x) == device else _Move.apply(x, device)


def _numpy(x: Tensor, *args: Any, **kwargs: Any) -> Any:
    if place(x) == THERE:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
    return x.numpy(*args, **kwargs) if not args or args == (None,) else x.numpy().astype(args[0])


def _device(told: Any) -> torch.device:
    device = torch.device("cuda", told) if isinstance(told, int) else torch.device(told)
    return THERE if device.type == "cuda" else device


def _deepcopy(x: Tensor, memo: Any) -> Tensor:
    return put(x.__deepcopy__(memo), place(x))


def _new_tensor(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    device = _device(kwargs.pop("device", None) or place(x))
    return put(x.new_tensor(*args, **kwargs), device)


def _own_device(x: Tensor) -> torch.device:
    real = torch.Tensor.device.__get__(x)
    return real if real.type == "meta" else place(x)


_ANSWERS: dict[Any, Any] = {
    Tensor.device.__get__: _own_device,
    Tensor.is_cuda.__get__: lambda x: _own_device(x) == THERE,
    Tensor.is_cpu.__get__: lambda x: _own_device(x) == HERE,
    Tensor.get_device: lambda x: 0 if place(x) == THERE else -1,
    Tensor.to: _to,
    Tensor.cuda: lambda x, *_, **__: _moved_from(x, THERE),
    Tensor.cpu: lambda x, *_, **__: _moved_from(x, HERE),
    Tensor.numpy: _numpy,
    Tensor.__array__: _numpy,
    Tensor.__deepcopy__: _deepcopy,
    Tensor.new_tensor: _new_tensor,
    Tensor.pin_memory: lambda x, *_: x.clone(),
}


class _Nothing:
    """A stream, or an event: what was asked for is done already."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def synchronize(self, *_: Any) -> None: ...

    def query(self) -> bool:
        return True

    wait = record = wait_stream = wait_event = synchronize


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **kwargs: Any):
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def _replace(patch: pytest.MonkeyPatch) -> None:
    """What asks CUDA itself, and who says which device is used."""
    join = Team.join.__func__

    def joined(cls: type[Team], **how: Any) -> Team:
        team = join(cls, **how)
        return cls(team.accelerator, THERE, team.rank, team.world_size)

    patch.setattr(Team, "join", classmethod(joined))
    run = threading.Thread.run

    def run_there(thread: threading.Thread) -> None:
        with _modes():
            run(thread)

    patch.setattr(threading.Thread, "run", run_there)
    patch.setattr(torch, "autocast", _Autocast)
    patch.setattr(torch, "Generator", _Generator)
    for name in ("Stream", "Event", "current_stream", "default_stream"):
        patch.setattr(torch.cuda, name, _Nothing)
    patch.setattr(Tensor, "record_stream", lambda *_: None)
    patch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    patch.setattr(torch.cuda, "synchronize", lambda *_: None)
    patch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 0)
    patch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state())
    patch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
    patch.setattr(torch.random, "fork_rng", lambda *_, **__: contextlib.nullcontext())
