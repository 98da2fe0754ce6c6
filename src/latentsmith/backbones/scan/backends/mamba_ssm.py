"""``mamba_ssm``: the CUDA and Triton kernels of the package mamba-ssm, trusted after a self-test.

The package imports where its kernels are missing, and has computed wrong values on new GPUs
(state-spaces/mamba #997). So on first use each scan is compared with ``reference`` on this GPU,
values and gradients; an importable package is no proof. Its limits, refused by name: float32; S6
with ``euler`` only, without ``initial``, and its state takes no gradient; SSD with ``euler`` and
``zoh``.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from latentsmith.backbones.scan.backends.reference import ReferenceBackend
from latentsmith.backbones.scan.base import SCAN_BACKENDS, Injection, Scan, ScanBackend
from latentsmith.errors import UserError
from latentsmith.utils.needs import package

LEAST_STEP = 1e-12
"""Steps are raised to this: SSD's kernel multiplies x by Δ, which is undone by a division."""
TOLERANCE = 1e-2
"""Of the self-test, relative to the largest value: products may be TF32, broken kernels are off by
more."""
CHUNK = 64


@SCAN_BACKENDS.register("mamba_ssm", help="kernels of the package mamba-ssm; CUDA, self-tested")
class MambaSSMBackend(ScanBackend):
    """See the module."""

    def lacking(self, device: torch.device, scan: Scan) -> str | None:
        """CUDA, the package, and a passed self-test."""
        if device.type != "cuda" or not torch.cuda.is_available():
            return "it needs a CUDA GPU and tensors on it. Use backend 'chunk'"
        found = package("mamba_ssm", "mamba-ssm --no-build-isolation")
        if not found.ok:
            return f"no {found.what}: {found.how}"
        return _self_test(scan, device.index or 0)

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
        if hold:
            raise _refused("S6 with rules other than euler")
        if initial is not None:
            raise _refused("S6 from an initial state")
        _check_dtype(step)
        from mamba_ssm.ops.selective_scan_interface import (  # pyright: ignore
            selective_scan_fn,
        )

        ((x, inward),) = injections
        last = [t.transpose(1, 2).contiguous() for t in (x, step)]  # [B, D, L]
        b, c = (t.permute(0, 2, 3, 1).contiguous() for t in (inward, outward))  # [B, G, N, L]
        y, state = selective_scan_fn(*last, decay, b, c, return_last_state=True)
        return y.transpose(1, 2), _NoGradient.apply(state)  # type: ignore

    def ssd(
        self,
        x: Tensor,
        step: Tensor,
        decay: Tensor,
        inward: Tensor,
        outward: Tensor,
        initial: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """See `ScanBackend.ssd`."""
        _check_dtype(step)
        from mamba_ssm.ops.triton.ssd_combined import (  # pyright: ignore
            mamba_chunk_scan_combined,
        )

        step = step.clamp_min(LEAST_STEP)
        return mamba_chunk_scan_combined(
            (x / step[..., None]).contiguous(),
            step.contiguous(),
            decay,
            inward.contiguous(),
            outward.contiguous(),
            chunk_size=CHUNK,
            initial_states=initial,
            return_final_states=True,
        )


class _NoGradient(torch.autograd.Function):
    """The state of S6: the package's backward would drop its gradient without a word."""

    @staticmethod
    def forward(ctx: Any, state: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        return state.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> None:
        if grads[0] is not None:
            raise _refused("a gradient through the state of S6")


def _refused(what: str) -> UserError:
    return UserError(f"scan backend 'mamba_ssm' cannot do {what}: use backend 'chunk'")


def _check_dtype(t: Tensor) -> None:
    if t.dtype != torch.float32:
        raise _refused(f"{str(t.dtype).removeprefix('torch.')}")


@cache
def _self_test(scan: Scan, index: int) -> str | None:
    """What is wrong with the kernels on this GPU, None when they agree with ``reference``."""
    try:
        ours, theirs = (
            _answers(backend, scan, torch.device("cuda", index))
            for backend in (ReferenceBackend(), MambaSSMBackend())
        )
    except Exception as error:  # a broken build raises anything
        first = (str(error).splitlines() or [""])[0]
        return (
            f"its kernel does not run ({type(error).__name__}: {first}). S6 needs mamba-ssm built "
            "with MAMBA_KEEP_CUDA_BUILD=TRUE"
        )
    worst = max(_distance(a, b) for a, b in zip(ours, theirs, strict=True))
    if worst <= TOLERANCE:
        return None
    return (
        f"self-test failed: its values or gradients are off by {worst:.1e} of the largest from "
        "'reference'. Update mamba-ssm or use backend 'chunk'"
    )


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest value; infinite for NaN."""
    worst = ((a - b).abs().max() / a.abs().max()).item()
    return worst if worst == worst else float("inf")


def _answers(backend: ScanBackend, scan: Scan, device: torch.device) -> list[Tensor]:
    """Output and gradients of a fixed problem of 80 positions (SSD: a chunk and a quarter)."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(device)

    batch, length, heads, width, states = 2, 80, 2, 16, 16
    inward, outward = draw(batch, length, 1, states), draw(batch, length, 1, states)
    if scan == "ssd":
        x, step, decay = draw(batch, length, heads, width), draw(batch, length, heads), draw(heads)
    else:
        dim = heads * width
        x, step, decay = draw(batch, length, dim), draw(batch, length, dim), draw(dim, states)
    inputs = (x, step.abs(), -decay.abs() - 0.1, inward, outward)
    x, step, decay, inward, outward = (t.requires_grad_() for t in inputs)
    with torch.enable_grad(), torch.autocast("cuda", enabled=False):
        if scan == "ssd":
            y, _ = backend.ssd(x, step, decay, inward, outward, None)
        else:
            enters = (Injection(x, inward),)
            y, _ = backend.selective(enters, step, decay, outward, None, hold=False)
        inputs = (x, step, decay, inward, outward)
        return [y.detach(), *torch.autograd.grad(y, inputs, draw(*y.shape))]
