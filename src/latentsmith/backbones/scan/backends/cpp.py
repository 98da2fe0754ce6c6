"""``cpp``: S6 in fused C++ on the CPU, compiled on first use by
`latentsmith.backbones.scan.cpp_build`.

Backward makes the states anew from those kept every 32 positions. OpenMP runs over samples, groups
and channels, with as many threads as torch has.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from latentsmith.backbones.scan.base import SCAN_BACKENDS, Injection, Scan, ScanBackend
from latentsmith.backbones.scan.cpp_build import NO_COMPILER, compiler, library

LANES, CHUNK = 16, 32
"""W and CHUNK of the source."""


@SCAN_BACKENDS.register("cpp", help="fused C++ on the CPU, compiled on first use; S6 only")
class CppBackend(ScanBackend):
    """See the module."""

    def lacking(self, device: torch.device, scan: Scan) -> str | None:
        """CPU, S6 and a compiler."""
        if scan == "ssd":
            return "it has S6 only. SSD is matrix products, where backend 'chunk' is at home"
        if device.type != "cpu":
            return "its code runs on the CPU. Use backend 'chunk' or 'mamba_ssm'"
        return NO_COMPILER if compiler() is None else None

    def selective(
        self,
        injections: tuple[Injection, ...],
        step: Tensor,
        decay: Tensor,
        outward: Tensor,
        initial: Tensor | None,
        *,
        hold: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `ScanBackend.selective`."""
        flat = [t for injection in injections for t in injection]
        return _Scan.apply(hold, initial, step, decay, outward, *flat)  # type: ignore


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hold: bool,
        initial: Tensor | None,
        step: Tensor,
        decay: Tensor,
        outward: Tensor,
        *flat: Tensor,
    ) -> tuple[Tensor, Tensor]:
        inputs = [t.contiguous() for t in (step, decay, outward, *flat)]
        sizes = _sizes(hold, inputs)
        batch, length, dim, groups, states = sizes[:5]
        chunks, tiles = -(-length // CHUNK), -(-(dim // groups) // LANES)
        kept = step.new_empty(chunks, batch, groups, tiles, states, LANES)
        start = None if initial is None else initial.contiguous()
        y = torch.empty_like(inputs[0])
        state = step.new_empty(batch, dim, states)
        _call("forward", sizes, [*_padded(inputs), kept], [start, y, state])
        ctx.hold, ctx.continued = hold, initial is not None
        ctx.save_for_backward(*inputs, kept)
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, kept = ctx.saved_tensors
        sizes = _sizes(ctx.hold, inputs)
        batch, splits = sizes[0], sizes[6]
        step, decay, outward, *flat = inputs
        d_initial = step.new_empty(batch, *decay.shape)
        d_decay = step.new_empty(batch, *decay.shape)  # of each sample
        d_step, d_xs = torch.empty_like(step), [torch.empty_like(x) for x in flat[::2]]
        d_out, *d_in = (step.new_empty(splits, *t.shape) for t in (outward, *flat[1::2]))
        second = len(d_xs) > 1
        into = [d_initial, d_step, d_xs[0], d_xs[1] if second else None, d_decay]
        into += [d_in[0], d_in[1] if second else None, d_out]
        given = [g.contiguous() for g in grads]
        _call("backward", sizes, [*_padded(inputs), kept], [*given, *into])
        pairs = [t for x, b in zip(d_xs, d_in, strict=True) for t in (x, b.sum(0))]
        start = d_initial if ctx.continued else None
        return None, start, d_step, d_decay.sum(0), d_out.sum(0), *pairs


def _sizes(hold: bool, inputs: Sequence[Tensor]) -> list[int]:
    """batch, length, dim, groups, states, terms, splits, threads, hold. Channels are split further
    only where samples and groups do not occupy the threads."""
    step, _, outward = inputs[:3]
    batch, groups, threads = len(step), outward.shape[2], torch.get_num_threads()
    tiles = -(-(step.shape[2] // groups) // LANES)
    splits = min(-(-2 * threads // (batch * groups)), tiles) if threads > 1 else 1
    terms = (len(inputs) - 3) // 2
    return [*step.shape, groups, outward.shape[3], terms, splits, threads, int(hold)]


def _padded(inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """step, decay, outward and two injections, the second empty where there is none."""
    return [*inputs, *[None] * (7 - len(inputs))]


def _call(
    name: str, sizes: list[int], given: list[Tensor | None], into: list[Tensor | None]
) -> None:
    first = given[0]
    assert first is not None
    kind = "double" if first.dtype == torch.float64 else "float"
    function = getattr(library(), f"s6_{name}_{kind}")
    function((ctypes.c_int64 * len(sizes))(*sizes), _pointers(given), _pointers(into))


def _pointers(tensors: list[Tensor | None]) -> Any:
    """A C array of their addresses, null for None."""
    addresses = [None if t is None else t.data_ptr() for t in tensors]
    return (ctypes.c_void_p * len(addresses))(*addresses)
