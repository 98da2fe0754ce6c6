"""A mistake that every process of a command has met with is told by the first one alone.

A folder that is not there, a setting that does not fit: most mistakes are everybody's. Who has met
with another one than process 0, or is the only one, tells it with its number. They find out at the
address where the launcher lets them meet, which needs no process group: that may not be up yet, or
be what broke.
"""

import os
import socket
import sys
import time
from datetime import timedelta
from typing import Any

PATIENCE = 10.0
"""Seconds that one process waits for what the first one has to say, and the first for others."""
KEY = "latentsmith/mistake"


def tell(message: str) -> None:
    """Print ``message`` as the command line's, unless process 0 of this command prints the same."""
    _tell(message, int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def _tell(message: str, rank: int, world: int) -> None:
    if world < 2:
        print(f"latentsmith: {message}", file=sys.stderr)
    elif rank == 0:
        print(f"latentsmith: {message}", file=sys.stderr, flush=True)
        _announce(message, world)
    elif _heard() != message:
        print(f"latentsmith: process {rank}: {message}", file=sys.stderr)


def _announce(message: str, world: int) -> None:
    """Leave it where the others look; where this process keeps that place, until they have."""
    keeps = not _launcher_keeps()
    store = _store(keeps=keeps)
    if store is None:
        return
    store.set(_key(), message)
    end = time.monotonic() + PATIENCE
    while keeps and store.add(f"{_key()}/heard", 0) < world - 1 and time.monotonic() < end:
        time.sleep(0.05)


def _heard() -> str | None:
    """What process 0 has told; None when it has told nothing."""
    store = _store(keeps=False)
    if store is None:
        return None
    end = time.monotonic() + PATIENCE
    try:
        while not store.check([_key()]):
            if time.monotonic() > end:
                return None
            time.sleep(0.05)
        text = store.get(_key()).decode()
        store.add(f"{_key()}/heard", 1)
    except RuntimeError:  # torch.distributed's own errors: nobody is there any more
        return None
    return text


def _key() -> str:
    """Of this start: a launcher may start the processes anew, beside the same store."""
    return f"{KEY}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _launcher_keeps() -> bool:
    """Whether the store is torchrun's, and not that of process 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


def _store(*, keeps: bool) -> Any:
    """The store at the meeting place; None when there is no such place, or nobody there."""
    import torch.distributed as dist

    address, port = (os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not (dist.is_available() and address and port):
        return None
    if not (keeps or _answers(address, int(port))):
        return None
    try:
        return dist.TCPStore(  # type: ignore[attr-defined]
            address, int(port), is_master=keeps, timeout=timedelta(seconds=PATIENCE),
            wait_for_workers=False, multi_tenant=True,
        )  # fmt: skip
    except (RuntimeError, ValueError):
        return None


def _answers(address: str, port: int) -> bool:
    """Whether somebody listens there in time: asked first, since the store complains in pages."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            socket.create_connection((address, port), timeout=1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False
