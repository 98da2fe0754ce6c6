"""What `urepa_step.py` measures: sizes, a pipeline with random weights, a batch, our side, and the
proof that both sides compute the same."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.backbones.sd_unet import SDUNetConfig
from latentsmith.backbones.unet_lora import LoraSettings
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.backbones.unet_shapes import SHAPES
from latentsmith.diffusion.align import TEACHER, AlignmentConfig
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.losses.manifold import ManifoldConfig
from latentsmith.stores.text_table import TextTable
from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import Loop
from latentsmith.training.stopping import StopFlag
from latentsmith.training.task import StepContext
from latentsmith.training.team import Team
from plain_urepa import PlainURepa

CLASSES = 10
Batch = dict[str, Tensor]

SIZES: dict[str, dict[str, Any]] = {
    # SD-1.5 with a fifth of its channels on a quarter of its positions
    "small": {
        "unet": {
            "sample_size": 32,
            "block_out_channels": [64, 128, 256, 256],
            "cross_attention_dim": 128,
        },
        "text": (20, 128),
        "teacher": (64, 256),
        "batch": 8,
    },
    "tiny": {
        "unet": {
            "sample_size": 16,
            "block_out_channels": [32, 64, 64, 64],
            "cross_attention_dim": 32,
        },
        "text": (8, 32),
        "teacher": (16, 32),
        "batch": 4,
    },
    "full": {"unet": {}, "text": (77, 768), "teacher": (256, 1024), "batch": 128},
}
"""U-Net: entries in the place of SD-1.5's; text [L, E]; the teacher's tokens [N, D]."""


def save_pipeline(folder: Path, size: dict[str, Any]) -> tuple[int, int, str]:
    """A U-Net with random weights and Stable Diffusion's scheduler, as published ones come: frozen
    weights have to come from somewhere. Returns (its parameters, the latents' side, ``folder``)."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_pndm import PNDMScheduler

    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel.from_config(SHAPES["sd15"] | size["unet"])
    unet.save_pretrained(folder / "unet")
    scheduler: Any = PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1
    )
    scheduler.save_pretrained(folder / "scheduler")
    return unet.num_parameters(), unet.config.sample_size, str(folder)


def texts_of(size: dict[str, Any]) -> Tensor:
    """[classes + 1, L, E], the empty prompt last."""
    return torch.randn(CLASSES + 1, *size["text"], generator=torch.Generator().manual_seed(1))


def batch_of(size: dict[str, Any]) -> Batch:
    """One batch as stores hold it: half precision, on the CPU."""
    rng, n = torch.Generator().manual_seed(2), size["batch"]
    side = (SHAPES["sd15"] | size["unet"])["sample_size"]
    tokens = torch.randn(n, *size["teacher"], generator=rng)
    return {
        "index": torch.arange(n),
        "latent": torch.randn(n, 4, side, side, generator=rng).half(),
        "label": torch.randint(CLASSES, (n,), generator=rng),
        TEACHER: torch.nn.functional.normalize(tokens, dim=-1).half(),
    }


class Ours:
    """The library's task in the library's loop, a step at a time."""

    def __init__(
        self, folder: str, size: dict[str, Any], scope: Any, run: Path, device: str, **fast: Any
    ):
        length, dim = size["text"][0], size["teacher"][1]
        narrow = fast.pop("unet", {})
        lora = LoraSettings(scope=scope)
        network = SDUNetConfig(source=folder, text_length=length, lora=lora, **narrow).build()
        assert network.config.path is not None
        head = AlignmentConfig(
            blocks=["mid"], hidden=None, layers=2, activation="gelu", last_bias=False,
            manifold=ManifoldConfig(),
        )  # fmt: skip
        config = DiffusionConfig(
            path=network.config.path, objective="noise", latent="mode", alignment=head
        )
        texts = TextTable(texts_of(size), torch.arange(CLASSES))
        network.conditions.set_null(texts.null)
        plain = LatentNormalizer.identity(4)
        self.network: SDUNet = network
        self.task = DiffusionTask(network, config, plain, teacher_dim=dim, texts=texts)
        train = TrainConfig(
            samples=10**9, batch_size=size["batch"], betas=(0.9, 0.999), weight_decay=0.01,
            ema=0.9995, trackers=[], **fast,
        )  # fmt: skip
        team = Team(None, torch.device(device), 0, 1)
        self.loop = Loop(self.task, train, run, team, None)
        self.run, self.stop = run, StopFlag()

    def prepare(self) -> None:
        """Compile, set modes."""
        self.loop.engine.prepare()

    def step(self, batch: Batch) -> None:
        """One step, from a batch on the CPU."""
        self.loop.engine.step(self.on_device(batch), self.stop)

    def on_device(self, batch: Batch) -> Batch:
        """As the loop takes it."""
        return self.loop._next(iter([batch]))

    def context(self) -> StepContext:
        """Of the next step."""
        return self.loop.engine.context(0)

    def loss(self, batch: Batch) -> Tensor:
        """Of one batch, as the next step computes it."""
        with self.loop.engine.autocast():
            return self.task("denoiser", self.on_device(batch), self.context())["loss"]

    def trained(self) -> list[nn.Parameter]:
        """LoRA in the network's order, then the head."""
        return [p for p in self.task.parameters() if p.requires_grad]

    def state_bytes(self) -> dict[str, int]:
        """Of the moving average, the optimizer and a checkpoint."""
        state = self.loop.state
        assert state.ema is not None
        root = self.run / "checkpoints"
        checkpoint = state.save(root, 1)
        moments = state.steppers[0].optimizer.state.values()
        return {
            "average": sum(t.nbytes for t in state.ema.tensors().values()),
            "optimizer": sum(v.nbytes for state in moments for v in state.values()),
            "checkpoint": sum(f.stat().st_size for f in checkpoint.iterdir()),
        }

    def drawn(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Noise, steps and texts that the next step of this batch draws."""
        seen: list[Any] = []
        network = self.network
        hook = network.register_forward_pre_hook(lambda module, args: seen.append(args))
        with torch.no_grad():
            self.task("denoiser", batch, self.context())
        hook.remove()
        z, t, condition = seen[0]
        noise = torch.randn(z.shape, generator=self.context().noise("noise"))
        return noise, network.index(t), condition["text"]


def same_weights(ours: Ours, plain: PlainURepa) -> None:
    """Random LoRA and head, the same on both sides: at LoRA's start half the gradients are 0."""
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for a, b in zip(ours.trained(), plain.trained(), strict=True):
            a.copy_(torch.randn(a.shape, generator=rng) * 0.02)
            b.copy_(a.view(b.shape))  # a 1 x 1 convolution is a linear layer of tokens


def check_same(ours: Ours, plain: PlainURepa, batch: Batch) -> None:
    """Same weights, noise, times and texts: the same loss and gradients."""
    same_weights(ours, plain)
    noise, t, text = ours.drawn(batch)
    theirs = plain.loss_of(batch["latent"].float(), batch[TEACHER].float(), noise, t, text)
    mine = ours.loss(batch)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    mine.backward()
    theirs.backward()
    for a, b in zip(ours.trained(), plain.trained(), strict=True):
        assert a.grad is not None and b.grad is not None
        scale = float(b.grad.abs().max())
        torch.testing.assert_close(a.grad, b.grad.view(a.shape), rtol=1e-3, atol=1e-4 * scale)
        a.grad = b.grad = None
