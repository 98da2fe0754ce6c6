"""Out of memory while training: said as what to set."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from latentsmith.errors import UserError
from latentsmith.training.config import TrainConfig

_FREE = ("MemAvailable:", "VmRSS:")


class OutOfMemory(UserError):
    """A training step did not fit.

    Attributes:
        name: of the training.
        micro: samples at once on one process. local: the process's share of a batch.
        capacity: bytes the device has in all; None: not known.
        reason: the allocator's own words.
    """

    def __init__(
        self, name: str, cfg: TrainConfig, world_size: int, device: torch.device, reason: str
    ):
        self.name, self.reason, self.capacity = name, reason, _capacity(device)
        self.local = cfg.batch_size // world_size
        self.micro = self.local // cfg.micros(world_size)
        self.where = (
            f"out of memory in {name} on {device}: batch_size {cfg.batch_size}, "
            f"{self.micro} samples at once on each of {world_size} process"
            f"{'es' if world_size > 1 else ''} ({reason})"
        )
        half = max((d for d in range(1, self.micro) if self.local % d == 0), default=None)
        advice = "a device with more memory" if half is None else f"micro_batch={half} or less"
        super().__init__(
            f"{self.where}. Use {advice}; the same batch is then made of smaller pieces"
        )


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory has run out (torch has a class for GPUs alone)."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


@contextlib.contextmanager
def memory_is_told(
    folder: Path, cfg: TrainConfig, world_size: int, device: torch.device
) -> Iterator[None]:
    """Raises `OutOfMemory` for what torch raises inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
        reason = (str(error).splitlines() or ["MemoryError"])[0].split(". ")[0]
        raise OutOfMemory(folder.name, cfg, world_size, device, reason) from error


def _capacity(device: torch.device) -> int | None:
    """Bytes of a device; of a CPU those that are free or this process's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        found = [Path("/proc", name).read_text() for name in ("meminfo", "self/status")]
    except OSError:
        return None
    lines = [line.split() for line in "\n".join(found).splitlines()]
    return 1024 * sum(int(words[1]) for words in lines if words and words[0] in _FREE)
