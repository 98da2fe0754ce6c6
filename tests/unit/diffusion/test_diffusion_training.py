"""The diffusion task in the loop: resumed equals uninterrupted, two processes equal one, it
learns."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from toy_denoising import (
    CLASSES,
    SHAPE,
    TEACHER,
    Source,
    ToyBackboneConfig,
    latents,
    normalizer,
)

from helpers.ranks import run_ranks
from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.backbones.base import BACKBONES, Backbone, BackboneOutput
from latentsmith.diffusion.align import AlignmentConfig
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.diffusion.times import TimeConfig
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.errors import UserError
from latentsmith.training.batches import rows
from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import fit
from latentsmith.training.task import StepContext


def toy_task(stop=1.0):
    config = DiffusionConfig(
        times=TimeConfig(kind="logit_normal"),
        alignment=AlignmentConfig(blocks=[2], hidden=6, stop=stop),
    )
    net = ToyBackboneConfig().build(SHAPE, CLASSES)
    return DiffusionTask(net, config, normalizer(), teacher_dim=TEACHER)


def train(folder, samples, **settings):
    cfg = TrainConfig(
        samples=samples, batch_size=16, micro_batch=8, lr=1e-2, schedule="constant", ema=0.9,
        save_every=16, validate_every=32, log_every=16, trackers=[], **settings,
    )  # fmt: skip
    task = toy_task()
    return task, fit(task, Source(16), cfg, folder, val_batch=latents(16, seed=7))


def records(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in lines]


def weights(folder):
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    return {
        f"{file.stem}:{name}": tensor
        for file in sorted(newest.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def test_resumed_equals_uninterrupted(tmp_path):
    train(tmp_path / "whole", 64)
    train(tmp_path / "parts", 16)
    train(tmp_path / "parts", 32)
    train(tmp_path / "parts", 64)
    left, right = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert left.keys() == right.keys() and any("aligner" in name for name in left)
    assert all(torch.equal(left[name], right[name]) for name in left)
    whole = records(tmp_path / "whole")
    assert [r for r in records(tmp_path / "parts") if r in whole] == whole
    last = whole[-1]
    assert {"loss", "zero", "time/1", "time/4", "alignment"} <= set(last)
    assert any("denoiser/denoising" in r and "denoiser/zero" in r for r in whole)


# Two processes -----------------------------------------------------------------------------------


def own_gradients(task):
    return {name: p.grad.clone() for name, p in task.named_parameters()}


def work(rank, world_size):
    """Gradients behind DDP of one step with alignment, and one after its stop."""
    found = {}
    for seen in (0, 90):
        task = toy_task(stop=0.5)
        half = slice(rank * 8, rank * 8 + 8)
        ctx = StepContext(seen, 100, seed=5, rank=rank, world_size=world_size)
        wrapped = DistributedDataParallel(task)  # must live until the backward pass is through
        wrapped("denoiser", rows(latents(16), half), ctx)["loss"].backward()
        found[seen] = own_gradients(task)
    return found


def test_two_processes_equal_one():
    """One process that goes through both ranks' halves with both ranks' noise."""
    results = run_ranks(work, 2)
    for seen in (0, 90):
        task = toy_task(stop=0.5)
        for rank in range(2):
            ctx = StepContext(seen, 100, seed=5, rank=rank, world_size=2)
            part = rows(latents(16), slice(rank * 8, rank * 8 + 8))
            (task("denoiser", part, ctx)["loss"] / 2).backward()
        for result in results:
            for name, grad in own_gradients(task).items():
                torch.testing.assert_close(result[seen][name], grad, rtol=1e-5, atol=1e-6)
        assert any(g.any() for n, g in results[0][seen].items() if "aligner" in n) == (seen == 0)


# It learns ---------------------------------------------------------------------------------------


class Points(Backbone):
    """An MLP over points of the plane, as latents [2, 1, 1]."""

    def __init__(self):
        super().__init__()
        self.predicts, self.latent_shape, self.classes = "velocity", (2, 1, 1), None
        self.width, self.depth, self.grid = 64, 1, (1, 1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
            )

    def forward(self, z, t, condition, *, taps=()):
        turns = 2 * torch.pi * t[:, None] * torch.tensor([0.5, 1.0])
        x = torch.cat([z.flatten(1), turns.sin(), turns.cos()], 1)
        return BackboneOutput(self.net(x).view_as(z))

    def null(self, condition):
        raise UserError("unconditional")


class Corners:
    """Latents near the four points (±1, ±1), raw: at (5 ± 3, 5 ± 3)."""

    fingerprint = {"corners": 4}  # noqa: RUF012

    def iterate(self, start):
        while True:
            rng = torch.Generator().manual_seed(start)
            sign = torch.randint(0, 2, (256, 2, 1, 1), generator=rng) * 2.0 - 1
            spread = 0.05 * torch.randn(256, 2, 1, 1, generator=rng)
            yield {"index": torch.arange(256), "latent": 5 + 3 * (sign + spread)}
            start += 256


def test_four_points_of_the_plane_are_learnt(tmp_path):
    """Trained for two seconds, then followed along the flow: nearly all
    samples end at a corner, as many at each. A broken objective ends anywhere."""
    scale = torch.tensor([3.0, 3.0], dtype=torch.float64)
    raw = LatentNormalizer(torch.full((2,), 5.0, dtype=torch.float64), scale, "corners", "mode")
    task = DiffusionTask(Points(), DiffusionConfig(latent="mode"), raw)
    cfg = TrainConfig(
        samples=256 * 400, batch_size=256, lr=2e-2, save_every=10**6, validate_every=10**6,
        log_every=10**6, trackers=[],
    )  # fmt: skip
    fit(task, Corners(), cfg, tmp_path)
    z, steps = torch.randn(1000, 2, 1, 1, generator=torch.Generator().manual_seed(1)), 40
    denoise = task.denoiser().bind({})
    with torch.no_grad():
        for k in range(steps, 0, -1):
            z = z - denoise(z, torch.full((1000,), k / steps)).velocity() / steps
    near = (z.abs() - 1).flatten(1).norm(dim=1) < 0.3
    assert near.double().mean() > 0.85
    corner = (z.flatten(1) > 0).long() @ torch.tensor([2, 1])
    assert (torch.bincount(corner, minlength=4) > 150).all()


@pytest.mark.parametrize("kind", ["dit", "sit"])
def test_gradient_reaches_every_parameter_of_real_backbones(kind):
    """After one step, since AdaLN-zero starts with a silent output."""
    net = BACKBONES[kind].config(size=None, width=16, depth=2, heads=2, patch=2)
    learnt = getattr(net, "learn_sigma", False)
    config = DiffusionConfig(
        **({"path": VPPathConfig(), "objective": "noise"} if learnt else {}),
        alignment=AlignmentConfig(blocks=[1], hidden=6),
    )
    task = DiffusionTask(net.build(SHAPE, CLASSES), config, normalizer(), teacher_dim=TEACHER)
    batch, optimizer = latents(64), torch.optim.SGD(task.parameters(), lr=0.1)
    for seen in (0, 64, 128):
        optimizer.zero_grad()
        task("denoiser", batch, StepContext(seen, 1000, seed=0))["loss"].backward()
        for name, p in task.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all(), name
        optimizer.step()
    silent = [name for name, p in task.named_parameters() if not p.grad.any()]
    assert silent == []
