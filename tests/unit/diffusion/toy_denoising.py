"""A denoiser of some hundred weights, and batches of latents in memory."""

from collections.abc import Collection, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.backbones.base import Backbone, BackboneConfig, BackboneOutput, Condition
from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.training.task import Batch

SHAPE = (2, 4, 4)
CLASSES = 3
TEACHER = 5
"""Width of the teacher's tokens; their grid is 4 x 4 as the toy's."""


@schema
class ToyBackboneConfig(BackboneConfig):
    kind: Literal["toy"] = "toy"
    variance: bool = False

    def build(self, latent_shape, classes):
        return ToyBackbone(self, latent_shape, classes)


class ToyBackbone(Backbone):
    """1x1 convolutions: a token for each position, two "blocks", time and class added."""

    def __init__(
        self, config: ToyBackboneConfig, latent_shape: tuple[int, int, int], classes: int | None
    ):
        super().__init__()
        channels, rows, columns = latent_shape
        self.predicts, self.latent_shape = config.predicts, latent_shape
        self.width, self.depth, self.grid = 8, 2, (rows, columns)
        self.classes = classes
        with torch.random.fork_rng():
            torch.manual_seed(config.init_seed)
            self.enter = nn.Conv2d(channels, self.width, 1)
            self.time = nn.Linear(3, self.width)
            self.label = None if classes is None else nn.Embedding(classes + 1, self.width)
            self.blocks = nn.ModuleList(nn.Conv2d(self.width, self.width, 1) for _ in range(2))
            self.leave = nn.Conv2d(self.width, channels * (2 if config.variance else 1), 1)
        self.variance = config.variance
        self.seen: list[tuple[Tensor, Tensor, Condition]] = []

    def forward(
        self, z: Tensor, t: Tensor, condition: Condition, *, taps: Collection[int] = ()
    ) -> BackboneOutput:
        self.seen.append((z.detach(), t.detach(), condition))
        if (self.label is None) != ("label" not in condition):
            raise UserError("label for a network without, or none for one with")
        times = torch.stack([t, (6.28 * t).sin(), (6.28 * t).cos()], 1)
        extra = self.time(times.to(self.time.weight.dtype))
        if self.label is not None:
            extra = extra + self.label(condition["label"])
        x, hidden = self.enter(z) + extra[:, :, None, None], {}
        for number, block in enumerate(self.blocks, 1):
            x = x + block(x).tanh()
            if number in taps:
                hidden[number] = x.flatten(2).transpose(1, 2)
        out = self.leave(x)
        if not self.variance:
            return BackboneOutput(out, None, hidden)
        sample, variance = out.chunk(2, 1)
        return BackboneOutput(sample, variance, hidden)

    def null(self, condition: Condition) -> Condition:
        if self.classes is None:
            raise UserError("unconditional")
        return {"label": torch.full_like(condition["label"], self.classes)}


def normalizer(latent: Literal["mode", "sample"] = "sample") -> LatentNormalizer:
    """Of `latents`: mean 3, deviation 2 and 0.5."""
    mean = torch.tensor([3.0, 3.0], dtype=torch.float64)
    std = torch.tensor([2.0, 0.5], dtype=torch.float64)
    return LatentNormalizer(mean, std, "toy", latent)


def latents(n: int, seed: int = 0) -> dict[str, Tensor]:
    """Raw moments [n, …] with labels and teacher tokens."""
    rng = torch.Generator().manual_seed(seed)
    std = torch.tensor([2.0, 0.5]).view(2, 1, 1)
    return {
        "index": torch.arange(n) + 100,
        "mean": 3 + std * torch.randn(n, *SHAPE, generator=rng),
        "logvar": torch.full((n, *SHAPE), -6.0),
        "label": torch.randint(CLASSES, (n,), generator=rng),
        "teacher/tokens": torch.randn(n, 16, TEACHER, generator=rng),
    }


class Source:
    """Batches of one table, in a fixed order; this rank's part."""

    def __init__(self, batch_size: int, rank: int = 0, world_size: int = 1):
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.table = latents(64)
        self.fingerprint: dict[str, Any] = {"table": "toy"}

    def iterate(self, start: int) -> Iterator[Batch]:
        while True:
            rows = torch.arange(start, start + self.batch_size) * 7 % 64
            rows = rows.chunk(self.world_size)[self.rank]
            yield {name: value[rows] for name, value in self.table.items()}
            start += self.batch_size
