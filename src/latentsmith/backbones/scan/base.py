"""What a scan returns, and what a way of computing it promises."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.registry import Registry

SCAN_BACKENDS = Registry("scan backend", "latentsmith.backbones.scan.backends")

Rule = Literal["euler", "zoh", "trapezoid"]
"""How an input enters over its step: see `latentsmith.backbones.scan.selective_scan`."""


Scan = Literal["selective", "ssd"]
"""Which of the two: `selective_scan` (S6) or `ssd_scan`."""


class ScanOutput(NamedTuple):
    """What a scan gives.

    ``y`` [B, L, D] (S6) or [B, L, H, P] (SSD), of the input's dtype; ``state`` [B, D, N] or
    [B, H, P, N], the one after the last position, float32 (float64 for float64 input).
    """

    y: Tensor
    state: Tensor


class Injection(NamedTuple):
    """One term ``inward_t x_t`` of what enters the state: ``x`` [B, L, D], ``inward``
    [B, L, G, N]. The trapezoidal rule has two, the others one."""

    x: Tensor
    inward: Tensor


class ScanBackend:
    """One way to compute both scans. Stateless; `backend_named` makes one.

    All tensors given to `selective` and `ssd` have one dtype, float32 or float64, and autocast is
    off; skip connections and input rules are done with. Channels are grouped contiguously:
    channel d of D uses group d // (D / G).
    """

    def lacking(self, device: torch.device, scan: Scan) -> str | None:
        """Why this backend cannot run ``scan`` on ``device``, in words that say what would help;
        None when it can. May probe (import, self-test), must not build."""
        raise TypeError(f"{type(self).__name__} has no lacking()")

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
        """S6: h_t = exp(Δ_t A) h_{t−1} + w_t Σ inward_t x_t, y_t = outward_t · h_t.

        Args:
            injections: what enters, see `Injection`.
            step: Δ [B, L, D].
            decay: A [D, N].
            outward: [B, L, G, N].
            initial: [B, D, N], None for zeros.
            hold: w = (exp(Δ A) − 1) / A instead of Δ.

        Returns:
            y [B, L, D] and the last state [B, D, N].
        """
        raise TypeError(f"{type(self).__name__} has no selective()")

    def ssd(
        self,
        x: Tensor,
        step: Tensor,
        decay: Tensor,
        inward: Tensor,
        outward: Tensor,
        initial: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """SSD: h_t = exp(Δ_t A) h_{t−1} + x_t inward_tᵀ, y_t = h_t outward_t.

        Args:
            x: [B, L, H, P], already weighted by the rule.
            step: Δ [B, L, H].
            decay: A [H].
            inward, outward: [B, L, G, N].
            initial: [B, H, P, N], None for zeros.

        Returns:
            y [B, L, H, P] and the last state [B, H, P, N].
        """
        raise TypeError(f"{type(self).__name__} has no ssd()")


def backend_named(name: str, device: torch.device, scan: Scan) -> ScanBackend:
    """The backend, able to run ``scan`` on ``device``.

    Raises:
        UserError: unknown name, or it cannot run here. Another one is never taken instead.
    """
    backend: ScanBackend = SCAN_BACKENDS[name].config()
    why = backend.lacking(device, scan)
    if why is not None:
        raise UserError(f"scan backend {name!r} cannot run {scan}_scan on {device.type}: {why}")
    return backend


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run on this machine."""

    name: str
    help: str
    lacking: dict[Scan, str]
    """Scan → why it cannot run, and what would help. Empty: both run."""


def available(device: torch.device | str | None = None) -> list[Availability]:
    """Every backend and whether it can run on ``device``; by default on CUDA where this machine
    has it, else on the CPU. Imports and self-tests what is installed; builds nothing."""
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    found = []
    for entry in SCAN_BACKENDS:
        backend: ScanBackend = entry.config()
        reasons = {scan: backend.lacking(chosen, scan) for scan in get_args(Scan)}
        lacking: dict[Scan, str] = {scan: why for scan, why in reasons.items() if why is not None}
        found.append(Availability(entry.name, entry.help, lacking))
    return found
