"""Another process of a group that is gone: told as that, by those that are left.

Gloo says "Connection closed by peer" with a line of its source, NCCL that a communicator was
aborted. Under torchrun the others are stopped anyway; started by other means (srun, mpirun) each
one's own words are all there is.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from latentsmith.errors import UserError
from latentsmith.utils.distributed import world_size


class PeerLost(UserError):
    """A process that this one works together with has ended, or does not answer."""


_SIGNS = re.compile(
    r"(closed|reset) by peer|broken pipe|connection refused|connection was (closed|likely closed)"
    r"|pair closure|timed out waiting|socket timeout|remote process exited"
    r"|communicator (was|is) aborted",
    re.IGNORECASE,
)


@contextlib.contextmanager
def lost_peers_are_told(newest: Callable[[], Path | None] = lambda: None) -> Iterator[None]:
    """Raises `PeerLost` for what the process group raises inside once a process of it is gone.

    Args:
        newest: the checkpoint that the next start will go on from.
    """
    try:
        yield
    except RuntimeError as error:  # torch.distributed's own classes are such
        if world_size() == 1 or not _SIGNS.search(str(error)):
            raise
        saved = newest()
        begin = "goes on where this stopped" if saved is None else f"goes on from {saved}"
        reason = str(error).splitlines()[0]
        raise PeerLost(
            f"another of the {world_size()} processes at work has ended, or does not answer "
            f"({reason}). Why is in its own output. The same command {begin}"
        ) from error
