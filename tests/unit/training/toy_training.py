"""Tasks and batches small enough to train in milliseconds, and processes to train them in."""

import gc
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from helpers.forks import forked
from helpers.ports import free_port
from latentsmith.training import checkpoint
from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import FitResult, fit
from latentsmith.training.task import Batch, Objective, StepContext, Task

WIDTH = 6
KILL, INT, TERM = int(signal.SIGKILL), int(signal.SIGINT), int(signal.SIGTERM)
IN_WRITING = -1
HOLDS_THE_GROUP = 77
"""Exit code of a process that has left training and not its process group."""


class Source:
    """64 fixed samples [6] in a fixed order. ``on_batch(start)`` may do harm."""

    def __init__(
        self,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        on_batch: Callable[[int], None] = lambda start: None,
        poison: tuple[int, ...] = (),
    ):
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.on_batch = on_batch
        self.table = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(3))
        self.table[list(poison)] = float("nan")
        self.fingerprint: dict[str, Any] = {"digest": "abc"}

    def batch(self, start: int) -> Batch:
        positions = torch.arange(start, start + self.batch_size)
        index = (positions * 7 % 64).chunk(self.world_size)[self.rank]
        names = [f"sample {i}" for i in index.tolist()]
        return {"index": index, "x": self.table[index], "name": names}

    def iterate(self, start: int) -> Iterator[Batch]:
        while True:
            self.on_batch(start)
            yield self.batch(start)
            start += self.batch_size


class Net(nn.Sequential):
    """Dynamo traces forwards of users' classes; a bare nn.Sequential it passes over."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class Denoiser(Task):
    """One objective. With ``noise``: input noise from the context, and dropout."""

    def __init__(self, *, noise: bool = True, norm: bool = False):
        super().__init__()
        torch.manual_seed(11)
        middle = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.net = Net(
            nn.Linear(WIDTH, 16), middle, nn.Tanh(), nn.Dropout(0.2 * noise), nn.Linear(16, WIDTH)
        )
        self.encoder = nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.encoder.requires_grad_(False)
        self.noise = noise
        self.seen: list[StepContext] = []

    def objectives(self) -> list[Objective]:
        return [Objective("main", list(self.net.parameters()))]

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        x = batch["x"]
        if self.noise:
            x = x + 0.1 * torch.randn(x.shape, generator=ctx.noise("input"))
        loss = (self.net(x) - batch["x"]).square().mean()
        return {"loss": loss, "rmse": loss.sqrt(), "feature": self.encoder(x).mean()}

    def sample_grid(self, batch: Batch, ctx: StepContext) -> Tensor:
        return self.net(batch["x"]).reshape(-1, 1, 2, 3).sigmoid()


class Residual(nn.Module):
    """x + Linear(tanh(Linear(x))); 5 rows, which neither two nor three processes share evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.back = nn.Linear(WIDTH, 5), nn.Linear(5, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(self.widen(x).tanh())


class Blocks(Denoiser):
    """Repeated blocks, a weight of its own, a frozen part; with ``norm`` batch norm's buffers."""

    def __init__(self, *, norm: bool = False) -> None:
        super().__init__(noise=False)
        self.net = Net()
        self.blocks = nn.ModuleList(Residual() for _ in range(3))
        self.norm = nn.BatchNorm1d(WIDTH) if norm else nn.LayerNorm(WIDTH)
        self.gain = nn.Parameter(torch.ones(1))

    def objectives(self) -> list[Objective]:
        return [Objective("main", [p for p in self.parameters() if p.requires_grad])]

    def _denoised(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.norm(x) * self.gain

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        loss = (self._denoised(batch["x"]) - batch["x"]).square().mean()
        return {"loss": loss, "feature": self.encoder(batch["x"]).mean()}

    def sample_grid(self, batch: Batch, ctx: StepContext) -> Tensor:
        return self._denoised(batch["x"]).reshape(-1, 1, 2, 3).sigmoid()


class Crooked(Blocks):
    """Uses a block's weight without calling the block."""

    def _denoised(self, x: Tensor) -> Tensor:
        return super()._denoised(x @ self.blocks[0].back.weight @ self.blocks[0].widen.weight)


class Steep(Denoiser):
    """Finite, but its gradient overflows float16 under the loss scaler's first scale of 65536."""

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        return {"loss": super().forward(objective, batch, ctx)["loss"] * 100}


class OddOne(Denoiser):
    """In one step after 120 the second of several processes sees a loss that stands out."""

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        parts = super().forward(objective, batch, ctx)
        odd = 10.0 * (ctx.rank == 1 and ctx.samples_seen == 960)
        return parts | {"rmse": parts["rmse"] + odd}


class Broken(Denoiser):
    """Fails in a forward pass, of which a traceback keeps every frame."""

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        if ctx.samples_seen == 16 and not ctx.fixed_noise:
            raise ValueError("a mistake in a task")
        return super().forward(objective, batch, ctx)


class Uneven(Denoiser):
    """Parts that not every process has: ``sometimes`` on the second only, in its own order."""

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        parts = super().forward(objective, batch, ctx)
        if ctx.rank == 1:
            parts = {"sometimes": torch.tensor(3.0), **dict(reversed(parts.items()))}
        return parts


class Adversarial(Task):
    """Two objectives on one batch; the discriminator joins at 16 samples. With ``norm`` its first
    gradients are rounding errors, of which AdamW makes whole steps: not to be compared."""

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(12)
        self.g = nn.Sequential(nn.Linear(WIDTH, 16), nn.Dropout(0.1), nn.Linear(16, WIDTH))
        first = nn.Linear(WIDTH, 16, bias=False)  # before batch norm a bias has no true gradient
        middle = nn.BatchNorm1d(16) if norm else nn.Tanh()
        self.d = nn.Sequential(first, middle, nn.Linear(16, 1))
        self.looks: list[tuple[str, int]] = []

    def objectives(self) -> list[Objective]:
        return [
            Objective("g", list(self.g.parameters())),
            Objective("d", list(self.d.parameters()), lr_scale=0.5, starts_at=16),
        ]

    def look_ahead(self, objective: str, micros: list[Batch], ctx: StepContext) -> None:
        self.looks.append((objective, len(micros)))

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        x = batch["x"]
        fake = self.g(x + 0.1 * torch.randn(x.shape, generator=ctx.noise("x")))
        if objective == "g":
            cheat = -self.d(fake).mean()
            mse = (fake - x).square().mean()
            return {"loss": mse + 0.1 * cheat, "mse": mse}
        real, fake = self.d(x), self.d(fake.detach())
        return {"loss": (1 - real).relu().mean() + (1 + fake).relu().mean()}


TASKS: dict[str, Callable[[], Task]] = {
    "denoiser": Denoiser,
    "plain": lambda: Denoiser(noise=False),
    "norm": lambda: Denoiser(norm=True),
    "steep": Steep,
    "odd one": OddOne,
    "broken": lambda: Broken(noise=False),
    "uneven": lambda: Uneven(noise=False),
    "adversarial": Adversarial,
    "duel": lambda: Adversarial(norm=False),
    "blocks": Blocks,
    "blocks norm": lambda: Blocks(norm=True),
    "crooked": Crooked,
}


def config(**settings: Any) -> TrainConfig:
    """Eight steps of eight samples, a checkpoint every two steps, no trackers."""
    defaults: dict[str, Any] = {
        "samples": 64,
        "batch_size": 8,
        "lr": 1e-2,
        "save_every": 16,
        "validate_every": 16,
        "log_every": 8,
        "trackers": [],
    }
    return TrainConfig(**(defaults | settings))


def toy_fit(
    name: str,
    folder: Path,
    *,
    on_batch: Callable[[int], None] = lambda start: None,
    poison: tuple[int, ...] = (),
    until: int | None = None,
    **settings: Any,
) -> tuple[Task, FitResult]:
    """`fit` of a toy task on its batches, as this process of however many."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cfg, task = config(**settings), TASKS[name]()
    source = Source(cfg.batch_size, rank, world_size, on_batch, poison)
    held_out = Source(8).batch(1000)
    identity = {"task": name}
    result = fit(task, source, cfg, folder, val_batch=held_out, identity=identity, until=until)
    return task, result


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the newest checkpoint of a run: "file:name" → tensor."""
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    return {
        f"{file.stem}:{name}": tensor
        for file in sorted(newest.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def records(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    return [{k: v for k, v in r.items() if k != "samples_per_second"} for r in kept]


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit: weights, averages, optimiser state, logged numbers."""
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
    assert records(a) == records(b)


# ---- processes ----------------------------------------------------------------------------------


def _child(
    name: str, folder: str, harm: dict[int, int], env: dict[str, str], settings: dict[str, Any]
) -> None:
    os.environ.update(env)
    real, files = checkpoint._checksum, []

    def checksum(file: Path) -> str:
        files.append(file)
        if len(files) == harm.get(IN_WRITING):
            os.kill(os.getpid(), KILL)
        return real(file)

    checkpoint._checksum = checksum

    def on_batch(start: int) -> None:
        if start in harm:
            os.kill(os.getpid(), harm[start])

    try:
        toy_fit(name, Path(folder), on_batch=on_batch, **settings)
    finally:
        if torch.distributed.is_initialized():
            if _reducers():
                os._exit(HOLDS_THE_GROUP)
            torch.distributed.destroy_process_group()


def _reducers() -> list[DistributedDataParallel]:
    """DDP whose reducer would be the last to hold the process group. That hangs now and then, most
    of all where frames of an exception under way keep it alive (`Team.unwrap`)."""
    wrappers = [o for o in gc.get_objects() if type(o) is DistributedDataParallel]
    return [wrapper for wrapper in wrappers if "reducer" in vars(wrapper)]


def run_processes(
    name: str,
    folder: Path,
    *,
    harm: dict[int, int] | None = None,
    processes: int = 1,
    only_rank: int | None = None,
    **settings: Any,
) -> list[int]:
    """Train in fresh processes; returns their exit codes (negative: killed by that signal).

    Args:
        harm: samples seen → signal the process sends itself before that batch; or IN_WRITING → n,
            killed after the n-th checkpoint file.
        only_rank: the process the harm comes to; None: all.
    """
    port = free_port()
    children = []
    for rank in range(processes):
        env = {"OMP_NUM_THREADS": "1"}
        if processes > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
            env |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
            env |= {"MASTER_ADDR": "127.0.0.1"}
        mine = harm or {} if only_rank in (None, rank) else {}
        args = (name, str(folder), mine, env, settings)
        children.append(forked(_child, *args))
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        if child.is_alive():
            child.kill()
            child.join()  # for its exit code: -9, not the None of one that still runs
    return [child.exitcode or 0 for child in children]
