"""What children of the nursery suffer. Each gives 0, or 2 after writing what a user is told to
``TOLD`` beside its folder."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch

from faults import writing
from faults.training import run
from latentsmith.errors import UserError
from latentsmith.stores.build import Backend

sys.path.append(str(Path(__file__).parents[1] / "unit" / "training"))
from toy_training import toy_fit


@contextlib.contextmanager
def _told(folder: str) -> Iterator[list[int]]:
    """Gives a list that says 0, or 2 after a UserError."""
    code = [0]
    try:
        yield code
    except UserError as error:
        told_file(folder).write_text(f"{type(error).__name__}: {error}")
        code[0] = 2


def told_file(folder: Path | str) -> Path:
    """What was told to whom wrote ``folder``."""
    return Path(f"{folder}.told")


# ---- disks --------------------------------------------------------------------------------------


def mount_small(folder: str, size: str) -> None:
    """A file system of so many bytes (``"300k"``), for all children from now on."""
    Path(folder).mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)


def run_on_small_disk(recipe: str, root: str, size: str) -> int:
    """The command, its run folder on such a disk; what it leaves is copied to ROOT/run."""
    mount_small(f"{root}/small", size)
    out, free = (
        Path(root, "small", "run"),
        mock.patch("latentsmith.training.preflight.require_free"),
    )
    with free:  # which sees much of it in time
        code = run(recipe, root, None, out=str(out))
    if out.exists():
        shutil.copytree(out, Path(root, "run"))
    subprocess.run(["umount", f"{root}/small"], check=True)
    return code


def run_read_only(recipe: str, root: str) -> int:
    """The command where nothing can be written."""
    mount_small(f"{root}/small", "1m")
    subprocess.run(["mount", "-o", "remount,ro", f"{root}/small"], check=True)
    return run(recipe, root, None, out=f"{root}/small/run")


def read_store_read_only(store: str, place: str) -> int:
    """A finished store on a disk that is read-only: verified, read, and asked for again."""
    from latentsmith.stores.verify import verify_store

    mount_small(place, "40m")
    there = shutil.copytree(store, Path(place, "store"))
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    found = verify_store(there)
    assert found.ok, found.problems
    backend: Backend = "lmdb" if (there / "data.mdb").exists() else "shards"
    writing.fill(str(there), f"{store}.again", backend, writing.FEW, None, 0)  # nothing to do
    assert not Path(f"{store}.again").exists()
    return 0


def fill_with_small_files(path: str, log: str, backend: Backend, most: int) -> int:
    """Write a store where no file may have more than ``most`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    with _told(path) as code:
        writing.fill(path, log, backend, writing.FEW, None, 0)
    return code[0]


def fit_with_small_files(folder: str, most: int) -> int:
    """Train where no file may have more than ``most`` bytes, not even the log of this."""
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    with _told(folder) as code:
        toy_fit("denoiser", Path(folder))
    return code[0]


# ---- processes ----------------------------------------------------------------------------------


def fit_slowly(folder: str, seconds: float) -> int:
    """Train, each batch so many seconds long."""
    with _told(folder) as code:
        toy_fit("denoiser", Path(folder), on_batch=lambda start: time.sleep(seconds))
    return code[0]


def fit_as(rank: int, port: int, folder: str, death: int | None) -> int:
    """Train as one of two processes; it kills itself after ``death`` samples."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in own.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def on_batch(start: int) -> None:
        if start == death:
            os.kill(os.getpid(), signal.SIGKILL)

    with _told(f"{folder}-{rank}") as code:
        toy_fit("plain", Path(folder), on_batch=on_batch)
    return code[0]


def fill_as(rank: int, meeting: str, path: str, log: str, pause: float) -> int:
    """Write a store as one of two ranks that meet in a file."""
    import torch.distributed as dist

    from latentsmith.stores import build
    from latentsmith.utils.peers import lost_peers_are_told

    build.POLL_SECONDS = 0.05
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    with _told(f"{path}-{rank}") as code, lost_peers_are_told():
        writing.fill(path, log, "shards", writing.COUNT, None, pause, rank=rank, ranks=2)
    return code[0]


def lose_a_worker(store: str) -> int:
    """Read a store by a DataLoader, one of whose worker processes is killed."""
    from torch.utils.data import DataLoader

    from latentsmith.stores.base import open_store
    from latentsmith.stores.dataset import StoreDataset

    def slow(sample):
        time.sleep(0.02)
        return sample

    rows = StoreDataset(open_store(store), transform=slow)
    batches = iter(DataLoader(rows, batch_size=1, num_workers=2))
    next(batches)
    os.kill(batches._workers[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with _told(store) as code:
        try:
            for _ in batches:
                pass
        except (RuntimeError, OSError, EOFError) as error:  # as it was just sending, or not
            raise UserError(f"{type(error).__name__} {error}") from error
    return code[0]


# ---- damage -------------------------------------------------------------------------------------


def verify_quietly(path: str) -> int:
    """Open and verify a store that may kill who reads it: 0 when it is good, and then its values
    are, too."""
    from latentsmith.stores.base import open_store
    from latentsmith.stores.verify import verify_store

    with _told(path) as code:
        verify_store(path).raise_for_problems()
        store, count = open_store(path), writing.FEW
        rows = torch.tensor([r for r in range(count) if r not in writing.UNREADABLE])
        for name, (values, _) in writing.table(count).items():
            wanted = values[rows].to(store.manifest.fields[name].dtype)
            assert torch.equal(store.gather(rows)[name], wanted), name
    return code[0]
