"""``reference``: the recurrence written down, a plain loop under autograd. Any dtype; what the
other backends are measured against.

Positions come from `unbind`: taking ``x[:, t]`` in the loop makes each backward step fill a tensor
of the whole length (55 s instead of 1 s at L = 256).
"""

import torch
from torch import Tensor

from latentsmith.backbones.scan.base import SCAN_BACKENDS, Injection, Scan, ScanBackend


@SCAN_BACKENDS.register("reference", help="plain loop under autograd; slow, any dtype, the oracle")
class ReferenceBackend(ScanBackend):
    """See the module."""

    def lacking(self, device: torch.device, scan: Scan) -> str | None:
        """Runs everywhere."""
        return None

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
        batch, _, dim = step.shape
        wide = dim // outward.shape[2]
        steps = step.unbind(1)
        entering = [
            (i.x.unbind(1), i.inward.repeat_interleave(wide, 2).unbind(1)) for i in injections
        ]
        reading = outward.repeat_interleave(wide, 2).unbind(1)  # L x [B, D, N]
        h = step.new_zeros(batch, dim, decay.shape[1]) if initial is None else initial
        out = []
        for t, dt in enumerate(steps):
            log = dt[..., None] * decay
            weight = torch.expm1(log) / decay if hold else dt[..., None]
            u = sum(x[t][..., None] * b[t] for x, b in entering)
            h = torch.exp(log) * h + weight * u
            out.append((h * reading[t]).sum(-1))
        return torch.stack(out, 1), h

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
        batch, _, heads, width = x.shape
        wide = heads // inward.shape[2]
        entering = inward.repeat_interleave(wide, 2).unbind(1)  # L x [B, H, N]
        reading = outward.repeat_interleave(wide, 2).unbind(1)
        kept = torch.exp(step * decay).unbind(1)  # L x [B, H]
        h = x.new_zeros(batch, heads, width, inward.shape[3]) if initial is None else initial
        out = []
        for xt, a, b, c in zip(x.unbind(1), kept, entering, reading, strict=True):
            h = a[..., None, None] * h + xt[..., None] * b[:, :, None]
            out.append((h * c[:, :, None]).sum(-1))
        return torch.stack(out, 1), h
