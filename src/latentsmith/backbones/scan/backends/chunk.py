"""``chunk``: pure PyTorch, a chunk of positions at a time; backward recomputes. CPU and GPU."""

import torch
from torch import Tensor

from latentsmith.backbones.scan.base import SCAN_BACKENDS, Injection, Scan, ScanBackend
from latentsmith.backbones.scan.chunk_s6 import chunk_selective
from latentsmith.backbones.scan.chunk_ssd import chunk_ssd


@SCAN_BACKENDS.register("chunk", help="pure PyTorch by chunks, recomputes in backward; CPU, GPU")
class ChunkBackend(ScanBackend):
    """See `latentsmith.backbones.scan.chunk_s6` and `latentsmith.backbones.scan.chunk_ssd`."""

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
        return chunk_selective(injections, step, decay, outward, initial, hold=hold)

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
        return chunk_ssd(x, step, decay, inward, outward, initial)
