"""Every recipe's kind of task trains under FSDP as it does under DDP: blocks, tied weights, LoRA in
frozen networks, gradients looked at within a step, networks run with other weights."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.backbones import randomized, tiny
from helpers.fields import field_autoencoder
from helpers.ranks import run_ranks
from helpers.text_latent import batch as text_batch
from helpers.text_latent import task as text_task
from helpers.tiny_sd import SIDE, TEXT_LENGTH, TEXT_WIDTH, tiny_sd
from latentsmith.autoencoders.field.task import FieldTask
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.autoencoders.objective import AdversarialConfig, ObjectiveConfig
from latentsmith.autoencoders.task import REFERENCE, TOKENS, AutoencoderTask
from latentsmith.backbones.sd_unet import SDUNetConfig
from latentsmith.backbones.unet_lora import LoraSettings
from latentsmith.data.fields import FieldSamplingConfig
from latentsmith.data.fields.batches import of_images
from latentsmith.diffusion.align import AlignmentConfig
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.losses.correlation import PearsonConfig
from latentsmith.losses.manifold import ManifoldConfig
from latentsmith.losses.priors.base import PRIORS
from latentsmith.losses.vavae import VAVAEConfig
from latentsmith.stores.text_table import TextTable
from latentsmith.training.batches import shard
from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import fit
from latentsmith.training.sharded import is_sharded
from latentsmith.training.task import Batch, Task

pytestmark = pytest.mark.slow
TEACHER, COUNT = 6, 8


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dit(folder: Path) -> tuple[Task, Batch]:
    """A transformer, with relations between images over micro-batches (a gradient cache)."""
    net = randomized(tiny("sit").build((4, 8, 8), 5))
    manifold = ManifoldConfig(weight=1.0)
    config = DiffusionConfig(alignment=AlignmentConfig(blocks=[2], hidden=8, manifold=manifold))
    one = torch.ones(4, dtype=torch.float64)
    task = DiffusionTask(net, config, LatentNormalizer(0 * one, one, "none"), teacher_dim=TEACHER)
    latents = {"mean": noise(COUNT, 4, 8, 8), "logvar": noise(COUNT, 4, 8, 8) - 4}
    tokens = noise(COUNT, 16, TEACHER, seed=2)
    return task, latents | {"label": torch.arange(COUNT) % 5, "teacher/tokens": tokens}


def unet(folder: Path) -> tuple[Task, Batch]:
    """LoRA in a frozen U-Net, and an alignment head."""
    lora = LoraSettings(scope="mid")
    source = str(folder / "sd")
    network = SDUNetConfig(source=source, text_length=TEXT_LENGTH, lora=lora).build()
    heads = AlignmentConfig(blocks=["mid"], hidden=None, layers=2, manifold=ManifoldConfig())
    config = DiffusionConfig(
        path=network.config.path, objective="noise", latent="mode", alignment=heads
    )
    table = TextTable(noise(4, TEXT_LENGTH, TEXT_WIDTH), torch.arange(3))
    network.conditions.set_null(table.null)
    one = torch.ones(4, dtype=torch.float64)
    scale = LatentNormalizer(0 * one, one, "none")
    task = DiffusionTask(network, config, scale, teacher_dim=TEACHER, texts=table)
    batch = {"latent": noise(COUNT, 4, SIDE, SIDE), "label": torch.arange(COUNT) % 3}
    return task, batch | {"teacher/tokens": noise(COUNT, 64, TEACHER, seed=2)}


def autoencoder(folder: Path) -> tuple[Task, Batch]:
    """Adaptive weights, pairs, a discriminator."""
    model = KLAutoencoderConfig(
        in_channels=1, block_out_channels=[8, 16], layers_per_block=1, latent_channels=2,
        norm_num_groups=4,
    ).build()  # fmt: skip
    gan = AdversarialConfig(weight=0.5, channels=4, layers=1)
    losses = {"pairs": PearsonConfig(weight=0.5), "va": VAVAEConfig(weight=0.5)}
    task = AutoencoderTask(
        model, ObjectiveConfig(l1=0, mse=1, adversarial=gan), losses=losses,
        terms={"encoder": 1.0}, token_widths={"encoder": 6},
    )  # fmt: skip
    batch = {"image": noise(COUNT, 1, 16, 16).sigmoid(), REFERENCE + "encoder": noise(COUNT, 5)}
    return task, batch | {TOKENS + "encoder": noise(COUNT, 4, 6)}


def text_latent(folder: Path) -> tuple[Task, Batch]:
    """Cycles that detach some of the weights, and a prior of the set."""
    on = {"weight": 1.0}
    prior = PRIORS["mmd"].config(weight=1.0, warmup=0.0, ramp=0.0)
    return text_task(t2l2t=on, l2t2l=on, prior=prior), text_batch(COUNT)


def field(folder: Path) -> tuple[Task, Batch]:
    """State space models over points."""
    draw = of_images(FieldSamplingConfig(resolution=8, inputs=(8, 20), queries=(12, 30), asked=24))
    return FieldTask(field_autoencoder(), draw), {"image": noise(COUNT, 3, 24, 24).sigmoid()}


TASKS: dict[str, Callable[[Path], tuple[Task, Batch]]] = {
    f.__name__: f for f in (dit, unet, autoencoder, text_latent, field)
}
BLOCKS = {"dit": 2, "unet": 0, "autoencoder": 0, "text_latent": 0, "field": 2}
"""How many are gathered one by one."""


class Same:
    """One batch, for ever."""

    def __init__(self, batch: Batch, rank: int, world: int):
        self.fingerprint: dict[str, Any] = {}
        self.batch = shard(batch | {"index": torch.arange(COUNT)}, rank, world)

    def iterate(self, start: int) -> Iterator[Batch]:
        while True:
            yield dict(self.batch)


def trained(name: str, folder: Path, rank: int, world: int, how: str) -> dict[str, Any]:
    """Two small steps; which parameters were a part."""
    torch.manual_seed(5)
    task, batch = TASKS[name](folder)
    settings: dict[str, Any] = {"samples": 2 * COUNT, "batch_size": COUNT, "log_every": COUNT}
    micro = 2 if name == "dit" else None
    cfg = TrainConfig(**settings, lr=1e-6, ema=0.5, micro_batch=micro, trackers=[], shard=how)
    held_out = {key: value[:5] for key, value in (batch | {"index": torch.arange(COUNT)}).items()}
    fit(task, Same(batch, rank, world), cfg, folder / name / how, val_batch=held_out)
    assert not any(map(is_sharded, task.parameters()))
    return {"blocks": len(task.shard_blocks())}


def work(rank: int, world: int, folder: str) -> dict[str, Any]:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # accelerate asks for it
    return {
        name: [trained(name, Path(folder), rank, world, how) for how in ("none", "fsdp")]
        for name in TASKS
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    tiny_sd(folder / "sd")
    return folder, run_ranks(work, 2, str(folder))


def records(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in r.items() if k not in ("samples_per_second", "kind")} for r in lines]


@pytest.mark.parametrize("name", TASKS)
def test_sharded_as_not(two, name):
    """Losses, gradient norms and validation of two steps."""
    folder, _ = two
    ddp, fsdp = (records(folder / name / how) for how in ("none", "fsdp"))
    assert len(ddp) == 4 and any(key.endswith("grad_norm") for key in ddp[1])
    for one, other in zip(ddp, fsdp, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_what_is_gathered_block_by_block(two, name):
    assert two[1][0][name][1]["blocks"] == BLOCKS[name]
