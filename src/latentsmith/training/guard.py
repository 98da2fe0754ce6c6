"""What happens when a loss or gradient is NaN or infinite."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.training.task import Batch


@dataclass
class Guard:
    """Counts skipped steps, records their samples, stops past the budget.

    Attributes:
        file: nonfinite.jsonl of the run; a record per skipped step of one process.
        budget: how many skipped steps are borne.
        buffers: running statistics (batch norm, spectral norm) that a poisoned forward pass would
            spoil for good; they are put back when a step is skipped.
    """

    file: Path
    budget: int
    buffers: list[Tensor] = field(default_factory=list)
    count: int = 0
    _kept: list[Tensor] = field(default_factory=list)

    def before(self) -> None:
        """Remember the buffers before a step (free when there are none)."""
        if self.buffers:
            self._kept = [buffer.detach().clone() for buffer in self.buffers]

    @torch.no_grad()
    def skipped(
        self, objective: str, batch: Batch, samples: int, rank: int, values: dict[str, float]
    ) -> None:
        """Account for one skipped step.

        Raises:
            UserError: past the budget, naming this step's samples and what to try.
        """
        for buffer, kept in zip(self.buffers, self._kept, strict=True):
            buffer.copy_(kept)
        self.count += 1
        ids = sample_ids(batch)
        record = {
            "samples": samples,
            "objective": objective,
            "rank": rank,
            "index": ids,
            **{name: repr(value) for name, value in values.items()},
        }
        with self.file.open("a") as f:
            f.write(json.dumps(record) + "\n")
        if self.count > self.budget:
            shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
            raise UserError(
                f"training stopped after {samples:,} samples: {self.count} steps of a budget of "
                f"{self.budget} (train.nonfinite_budget) were not finite. The last one, of "
                f"objective {objective!r}, had {shown} on samples {_short(ids)}. All of them are "
                f"listed in {self.file}. Look at those samples; else lower train.lr, or use "
                f"train.precision=fp32 or bf16"
            )


def sample_ids(batch: Batch) -> list[Any]:
    """The numbers of a batch's samples in their dataset. Waits for the device."""
    index = batch["index"]
    return index.tolist() if isinstance(index, Tensor) else list(index)


def _short(ids: list[Any], most: int = 12) -> str:
    shown = ", ".join(map(str, ids[:most]))
    return f"{shown}, … ({len(ids)} in all)" if len(ids) > most else shown
