"""Tasks small enough to count by hand."""

from typing import Any

import torch
from torch import Tensor, nn

from latentsmith.planning.stage import Training
from latentsmith.training.config import TrainConfig
from latentsmith.training.task import Batch, Objective, StepContext, Task


class Chain(Task):
    """relu(x W) V, W [8, 32] and V [32, 4], without biases."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.first, self.second = nn.Linear(8, 32, bias=False), nn.Linear(32, 4, bias=False)

    def objectives(self) -> list[Objective]:
        return [Objective("chain", [p for p in self.parameters() if p.requires_grad])]

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        return {"loss": self.second(self.first(batch["x"]).relu()).square().sum()}


class Blocks(Task):
    """Four blocks [8, 8] and a head [8, 1], without biases."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.blocks = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(4))
            self.head = nn.Linear(8, 1, bias=False)

    def objectives(self) -> list[Objective]:
        return [Objective("blocks", list(self.parameters()))]

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        x = batch["x"]
        for block in self.blocks:
            x = block(x)
        return {"loss": self.head(x).square().sum()}


class Duel(Task):
    """Two objectives over parts of their own."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.maker, self.judge = nn.Linear(8, 8, bias=False), nn.Linear(8, 1, bias=False)

    def objectives(self) -> list[Objective]:
        return [
            Objective("maker", list(self.maker.parameters())),
            Objective("judge", list(self.judge.parameters()), starts_at=90),
        ]

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        made = self.maker(batch["x"])
        return {"loss": self.judge(made if objective == "maker" else made.detach()).sum()}


def rows(n: int) -> Batch:
    """x [n, 8]"""
    return {"index": torch.arange(n), "x": torch.empty(n, 8)}


def training(task: Any, parts: dict[str, str], **train: Any) -> Training:
    """A stage of a toy."""
    settings: dict[str, Any] = {"samples": 100, "batch_size": 16} | train
    cfg = TrainConfig(**settings)
    return Training("toy", cfg, "train", task, rows, parts)
