"""Run a function on several real processes joined by gloo, and get every rank's result.

    from helpers.ranks import run_ranks

    def work(rank, world_size, scale):      # at module level, so that a new process can find it
        return {"sum": ...}

    results = run_ranks(work, 2, 3.0)       # [result of rank 0, result of rank 1]

They are forked (`helpers.forks`), and each imports the module of ``work``: a function of many
checks, its results shared through a module-scoped fixture, costs least.
"""

import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from helpers.forks import forked

TIMEOUT = 400
"""Seconds until processes that do not finish are killed and the test fails."""


def _rank_main(
    work: Callable[..., Any], rank: int, world_size: int, folder: str, args: tuple[Any, ...]
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    # a file, not a port: tests in parallel cannot collide
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
    )
    try:
        outcome = (True, work(rank, world_size, *args))
    except BaseException:
        outcome = (False, traceback.format_exc())
    torch.save(outcome, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def run_ranks(work: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """``work(rank, world_size, *args)`` on each of ``world_size`` new processes.

    Results are passed by ``torch.save``. Any rank's exception fails the test, with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            forked(_rank_main, work, rank, world_size, folder, args) for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        try:
            for process in ranks:
                process.join(TIMEOUT)
        finally:
            for process in ranks:
                if process.is_alive():
                    process.kill()
        results = []
        for rank, process in enumerate(ranks):
            file = Path(folder) / f"{rank}.pt"
            if not file.exists():
                raise AssertionError(f"rank {rank} ended with code {process.exitcode}, no result")
            good, result = torch.load(file, weights_only=False)
            if not good:
                raise AssertionError(f"rank {rank} failed:\n{result}")
            results.append(result)
        return results
