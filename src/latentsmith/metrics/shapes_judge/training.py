"""How the judge learns: renders drawn on the fly, slightly spoiled, read cell by cell."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.data.shapes.config import ShapesDataset
from latentsmith.data.shapes.render import render
from latentsmith.metrics.shapes_judge.config import JudgeConfig
from latentsmith.metrics.shapes_judge.matching import PARTS, verdicts
from latentsmith.metrics.shapes_judge.network import JudgeNet, Scores
from latentsmith.metrics.shapes_judge.tables import cell_tables, scene_tables
from latentsmith.training.task import Batch, Objective, StepContext, Task
from latentsmith.utils.seeding import generator, seed_globals

PRESENCE_WEIGHT = 3.0
"""Of the presence loss, a mean over nine cells of which one or two hold something."""


class JudgeTask(Task):
    """Trains a `JudgeNet` on batches ``{"image", "table"}`` (`draw`)."""

    def __init__(self, config: JudgeConfig):
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):  # the caller's random stream goes on as it was
            seed_globals("shapes_judge", config.seed)
            self.net = JudgeNet(config.width)

    def objectives(self) -> list[Objective]:
        """One."""
        return [Objective("judge", list(self.net.parameters()))]

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Sum of cross-entropies: ``presence`` of all cells, ``background``, and ``shape``,
        ``color`` and ``size`` of the cells that hold something."""
        images = spoil(batch["image"], self.config, ctx.noise("spoil"))
        return _losses(self.net(images), batch["table"])

    @torch.no_grad()
    def validate(self, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Losses on clean pictures, and ``joint``, the share of which everything is read right."""
        scores = self.net(batch["image"])
        right = (scores.tables() == batch["table"]).flatten(1).all(1)
        return _losses(scores, batch["table"]) | {"joint": right.float().mean()}


def _losses(scores: Scores, table: Tensor) -> dict[str, Tensor]:
    there = table[:, 1:, 0] >= 0
    parts = {
        "presence": F.binary_cross_entropy_with_logits(scores.presence, there.float()),
        "background": F.cross_entropy(scores.background, table[:, 0, 0]),
    }
    named = enumerate(zip(("shape", "color", "size"), scores.attributes, strict=True))
    for k, (name, logits) in named:
        parts[name] = F.cross_entropy(logits[there], table[:, 1:, k][there])
    total = sum(parts.values(), (PRESENCE_WEIGHT - 1) * parts["presence"])
    return {"loss": total} | {name: part.detach() for name, part in parts.items()}


def spoil(images: Tensor, config: JudgeConfig, rng: torch.Generator) -> Tensor:
    """Pictures [B, 3, H, W] as a generator might have made them: some of them softer, brighter or
    darker, with noise; in [0, 1]."""

    def draw() -> Tensor:
        return torch.rand(len(images), 1, 1, 1, generator=rng, device=images.device)

    line = torch.tensor([0.25, 0.5, 0.25], device=images.device)
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    soft = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    amount = config.blur * draw() * (draw() < 0.5)
    out = torch.lerp(images, soft, amount)
    out = out * (1 + config.brightness * (2 * draw() - 1)) + config.brightness * (2 * draw() - 1)
    noise = torch.randn(images.shape, generator=rng, device=images.device)
    return (out + config.noise * draw() * noise).clamp(0, 1)


def draw(dataset: ShapesDataset, indices: Tensor) -> Batch:
    """Samples with their table by cell, without the captions, which take longer than the rest."""
    scenes = dataset.scenes(indices)
    images = render(scenes, dataset.cfg.resolution).float() / 255
    return {"index": indices, "image": images, "table": cell_tables(scenes)}


class Renders:
    """A batch source of samples 0, 1, 2, … of a dataset, drawn when they are needed."""

    def __init__(self, dataset: ShapesDataset, batch_size: int):
        self.dataset, self.batch_size = dataset, batch_size

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Of the dataset; its order is its own."""
        return {"dataset": self.dataset.digest}

    def iterate(self, start: int) -> Iterator[Batch]:
        """From sample ``start`` on."""
        while True:
            yield draw(self.dataset, torch.arange(start, start + self.batch_size))
            start += self.batch_size


@torch.no_grad()
def accuracy(net: JudgeNet, config: JudgeConfig, resolution: int, *, spoiled: bool) -> dict:
    """What the network reads right of the held-out pictures: share for each of
    `latentsmith.metrics.shapes_judge.matching.PARTS`, ``joint`` (everything) and their number
    ``n``. ``spoiled``: of pictures that were spoiled as in training."""
    dataset, right, joint = config.data(resolution, "val"), [], []
    device = next(net.parameters()).device
    net.eval()
    for k, indices in enumerate(torch.arange(len(dataset)).split(256)):
        batch = draw(dataset, indices)
        images = batch["image"]
        if spoiled:
            images = spoil(images, config, generator("shapes_judge", config.seed, "spoil", k))
        found = net(images.to(device)).tables().cpu()
        true = scene_tables(dataset.scenes(indices))
        held, asked = verdicts(found, true)
        right.append(torch.where(asked, held.double(), torch.nan))
        joint.append((found == batch["table"]).flatten(1).all(1).double())
    shares = torch.cat(right).nanmean(0).tolist()
    named = dict(zip(PARTS, shares, strict=True))
    return named | {"joint": float(torch.cat(joint).mean()), "n": len(dataset)}
