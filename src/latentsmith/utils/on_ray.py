"""Work that is cut into parts, done by tasks on a Ray cluster (the extra ``ray``).

Ray is imported when it is asked for. It sends no usage statistics and opens no dashboard from here.
A cluster of its own, which it starts where there is none, listens on every address of this machine:
Ray turns a given 127.0.0.1 into an address that others reach. The log says so.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.errors import UserError

log = logging.getLogger(__name__)

CARRIED = ("LATENTSMITH_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "PYTHONPATH")
"""Variables of this process that workers get."""
STORE_BYTES = 100 << 20
"""Of a local cluster's object store: tasks here send each other nothing."""


@schema
class RayConfig:
    """Which Ray cluster, and how many tasks at once."""

    workers: Annotated[int, Field(ge=1)] = 2
    """Tasks; each makes its own shards, then those that others have not begun."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each task."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """Processor cores of each task."""
    address: str | None = None
    """Of the cluster (auto, or ray://HOST:10001); left out: $RAY_ADDRESS, else one of this machine
    alone, for as long as the command runs."""


def on_ray(work: Callable[[int, int], None], cfg: RayConfig, label: str) -> None:
    """``work(rank, workers)`` as ``cfg.workers`` tasks. Returns when all are done.

    Tasks run in this process's folder, where there is such a one. One that loses its machine is
    started again on another, three times.

    Args:
        work: picklable; called once for each rank.
        label: for messages.

    Raises:
        UserError: Ray is not installed, no cluster answers, it has not what a task asks for, or
            what a task raised.
    """
    ray = _ray()
    began = not ray.is_initialized()
    if began:
        _connect(ray, cfg)
    try:
        _check_room(ray, cfg)
        task = ray.remote(num_cpus=cfg.cpus, num_gpus=cfg.gpus, max_retries=3)(_in_folder)
        tasks = [task.remote(work, r, cfg.workers, Path.cwd()) for r in range(cfg.workers)]
        _await(ray, tasks, label)
    finally:
        if began:
            ray.shutdown()


def _ray() -> Any:
    """The module. Raises UserError when it is not there."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "engine=ray needs Ray, which is not installed: pip install 'latentsmith[ray]', here "
            "and on the cluster; or leave engine away (torchrun shares the work too)"
        ) from error
    return ray


def _connect(ray: Any, cfg: RayConfig) -> None:
    carried = {name: os.environ[name] for name in CARRIED if name in os.environ}
    how: dict[str, Any] = {"runtime_env": {"env_vars": carried}} if carried else {}
    address = cfg.address or os.environ.get("RAY_ADDRESS")
    if address is None:
        # so many tasks at once even on fewer cores: they share them as processes do
        cores = max(os.cpu_count() or 1, int(cfg.workers * cfg.cpus + 0.999))
        how |= {"num_cpus": cores, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        log.warning(
            "a Ray cluster starts on this machine and listens on all its addresses: not on a "
            "network you share with strangers"
        )
    try:
        ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False, **how)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"no Ray cluster at {address or 'this machine'} ({reason}): start one (`ray start "
            "--head`), give its address (ray.address=auto), or leave both away"
        ) from error


def _check_room(ray: Any, cfg: RayConfig) -> None:
    """A task that asks for what no machine has would wait for ever."""
    has = ray.cluster_resources()
    for name, each in (("GPU", cfg.gpus), ("CPU", cfg.cpus)):
        if each > has.get(name, 0):
            raise UserError(
                f"each task asks for {each:g} {name}s (ray.{name.lower()}s), and the whole cluster "
                f"has {has.get(name, 0):g}"
            )


def _await(ray: Any, tasks: list[Any], label: str) -> None:
    """Until all are done; the first failure of one ends them all."""
    from latentsmith.utils.counter import Counter

    left = list(tasks)
    with Counter(f"{label}, tasks", len(tasks)) as count:
        while left:
            done, left = ray.wait(left, num_returns=1, timeout=1.0)
            try:
                ray.get(done)
            except ray.exceptions.RayError as error:
                for other in left:
                    ray.cancel(other, force=True)
                cause = getattr(error, "cause", None)
                if isinstance(cause, UserError):
                    raise UserError(str(cause)) from error
                raise UserError(f"a task on Ray failed: {error}") from error
            count(len(tasks) - len(left))


def _in_folder(work: Callable[[int, int], None], rank: int, workers: int, folder: Path) -> None:
    if folder.is_dir():
        os.chdir(folder)
    work(rank, workers)
