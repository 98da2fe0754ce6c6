"""The processes of one run: who am I, and agreeing with the others."""

import itertools
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from latentsmith.errors import UserError
from latentsmith.utils.patience import Pauses

T = TypeVar("T")

_turns = itertools.count()
"""Numbers what the main process does for all; every process counts alike."""


@dataclass(frozen=True)
class Team:
    """This process among all of the run, as `accelerate launch` or `torchrun` started them."""

    accelerator: Any
    device: torch.device
    rank: int
    world_size: int

    @classmethod
    def join(cls, *, several_objectives: bool) -> "Team":
        """Find (or start) the process group; alone without one.

        accelerate does launch, device and DDP. Autocast and loss scaling stay in the loop: each
        objective has its own scaler, and the weights must stay float32.

        Raises:
            UserError: launched for a strategy of accelerate's other than DDP.
        """
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, DistributedType

        # An objective leaves the other objectives' parameters without gradient.
        ddp = DistributedDataParallelKwargs(find_unused_parameters=several_objectives)
        accelerator = Accelerator(
            mixed_precision="no", kwargs_handlers=[ddp], cpu=not torch.cuda.is_available()
        )
        known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if accelerator.distributed_type not in known:
            raise UserError(
                f"launched for {accelerator.distributed_type}, but training runs in one process, "
                f"by DDP, or by FSDP that it sets up itself (train.shard=fsdp): use `torchrun` or "
                f"`accelerate launch --multi_gpu`"
            )
        return cls(
            accelerator, accelerator.device, accelerator.process_index, accelerator.num_processes
        )

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """``module`` behind DDP when there are several processes. Gradients become MEANS."""
        if self.world_size == 1:
            return module
        # it is on its device: moved to "cpu:0" by accelerate, buffers would be other tensors than
        # those that are saved
        return self.accelerator.prepare_model(module, device_placement=False)

    @staticmethod
    def unwrap(module: nn.Module) -> nn.Module:
        """What `wrap` was given; DDP lets go of the process group for good.

        A traceback's frames, or a cycle, keep DDP alive, maybe past `destroy_process_group`. Its
        reducer would then be the last to hold the group, and takes it apart without giving up the
        GIL, for which a thread of gloo's may wait to free a tensor: the process would never end.
        """
        if not isinstance(module, DistributedDataParallel):
            return module
        del module.reducer, module.logger  # the logger holds the reducer
        return module.module

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite ``tensors`` by those of the main process."""
        for tensor in tensors:
            dist.broadcast(tensor, src=0)

    def gather(self, values: Tensor, own: bool) -> tuple[list[list[float]], bool]:
        """Float ``values`` [n] of every process, by rank; and whether ``own`` is true on any.

        One device synchronisation, whether there are others or not.
        """
        if self.world_size == 1:
            return [values.tolist()], own
        row = torch.cat((values, values.new_full((1,), own)))
        rows = [torch.empty_like(row) for _ in range(self.world_size)]
        dist.all_gather(rows, row)
        *values_of, flags = torch.stack(rows, dim=1).tolist()
        return [list(row) for row in zip(*values_of, strict=True)], any(flags)

    def names(self, own: list[str]) -> list[list[str]]:
        """The names that every process has, by rank. A digest is exchanged, and the names
        themselves only where some differ: a process without texts may have no loss of texts."""
        if self.world_size == 1:
            return [own]
        digest = torch.tensor([zlib.crc32("\n".join(own).encode())], device=self.device)
        digests = [torch.empty_like(digest) for _ in range(self.world_size)]
        dist.all_gather(digests, digest)
        if len(set(torch.cat(digests).tolist())) == 1:
            return [own] * self.world_size
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, own)
        return found

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over processes."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def on_main(self, work: Callable[[], T]) -> T:
        """Run ``work`` on the main process; all get its result, or all raise its error.

        Without this an error on one process leaves the others waiting until a time-out. It may take
        hours (reading a dataset, measuring): the others look for its end, and only then meet it in
        a collective, which would give up after minutes.
        """
        if self.world_size == 1:
            return work()
        outcome: list[Any] = [None, None]
        failed: Exception | None = None
        store, done = dist.distributed_c10d._get_default_store(), f"latentsmith/{next(_turns)}"
        if not self.is_main:
            _look_for(store, done)
        else:
            try:
                outcome[0] = work()
            except Exception as error:
                failed = error
                # Sent by pickle, which not every exception survives, be it a UserError's subclass.
                known = isinstance(error, UserError)
                text = str(error) if known else f"main process: {error!r}"
                outcome[1] = (UserError if known else RuntimeError)(text)
            store.set(done, "")
        dist.broadcast_object_list(outcome, src=0, device=self.device)
        if failed is not None:
            raise failed
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


def _look_for(store: Any, key: str) -> None:
    """Until the key is there. Asked again and again: the store's own waiting has a time-out that it
    is loud about."""
    pauses = Pauses(longest=0.5)
    while not store.check([key]):
        pauses.sleep()
