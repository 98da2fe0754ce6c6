"""What a run would be, found out without weights, data or training: on the meta device."""

import math

import torch
from torch import Tensor

from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.autoencoders.on_meta import on_meta
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.config.run import Run
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.errors import UserError
from latentsmith.recipes.urepa.config import UREPAConfig
from latentsmith.recipes.urepa.on_meta import network_on_meta
from latentsmith.stores.base import FieldSpec
from latentsmith.stores.layout import row_bytes
from latentsmith.training.plan import length

DINOV2_L = (1024, (16, 16))
"""Width and grid of tokens assumed where the teacher's weights are not at hand: DINOv2 ViT-L/14 at
224 pixels."""


def dry_run(cfg: UREPAConfig, run: Run) -> None:
    """Print the plan: shapes, parameters, FLOPs of a step, memory of the state, sizes of caches.

    Raises:
        UserError: resolution, channels, texts or blocks do not fit.
    """
    autoencoder, guess = on_meta(cfg.autoencoder)
    if autoencoder.channels != cfg.transform.channels:
        raise UserError(
            f"transform.channels is {cfg.transform.channels}, the autoencoder takes "
            f"{autoencoder.channels}"
        )
    shape = autoencoder.latent_shape(cfg.transform.resolution)
    (width, grid), unknown = _teacher(cfg)
    network, assumed = network_on_meta(cfg, shape)
    task = DiffusionTask(
        network,
        cfg.diffusion.of(network, aligned=True),
        LatentNormalizer.identity(shape[0]),
        teacher_dim=width,
    )
    print(f"data           {cfg.data.kind}, {cfg.transform.channels}x{cfg.transform.resolution}²")
    print(f"autoencoder    {cfg.autoencoder.source}{guess}, latents {'x'.join(map(str, shape))}")
    print(f"teacher        {cfg.teacher.kind}{unknown}: {grid[0]}x{grid[1]} tokens of {width}")
    _parameters(task, network, assumed)
    forward, backward = flops(task, shape, grid)
    print(
        f"one step       {forward / 1e9:,.1f} GFLOP forward and {backward / 1e9:,.1f} backward an "
        "image"
    )
    _store(cfg, shape, grid, width)
    if cfg.pretrain is not None:
        print(f"autoencoder    {length(cfg.pretrain.autoencoder)}")
        print(f"U-Net          {length(cfg.pretrain.denoiser)}")
    print(f"{'two arms' if cfg.has_control else 'aligned':14} {length(cfg.train)}")


def _parameters(task: DiffusionTask, network: SDUNet, assumed: str) -> None:
    """As counted, and what training keeps of them."""
    counts = network.parameter_counts()
    assert task.aligner is not None
    head = sum(p.numel() for p in task.aligner.parameters())
    trained = counts["trainable"] + head
    print(f"U-Net          {counts['unet']:,} parameters{assumed}, {counts['frozen']:,} frozen")
    print(f"LoRA           {counts['lora']:,} parameters")
    print(f"head           {head:,} parameters")
    state = 4 * trained * 5  # weight, gradient, two moments, moving average
    print(f"training state {state / 2**20:,.1f} MiB for {trained:,} trained parameters (float32)")


def _store(
    cfg: UREPAConfig, shape: tuple[int, int, int], grid: tuple[int, int], width: int
) -> None:
    """Bytes of the caches, an image and for 200,000 (the source's track A)."""
    latents = row_bytes(FieldSpec(shape, "float16"))
    latents *= 1 if cfg.diffusion.latent == "mode" else 2
    tokens = row_bytes(FieldSpec((math.prod(grid), width), cfg.caches.dtype))
    for name, size in (("latents", latents), ("tokens", tokens)):
        print(
            f"cached {name:7} {size / 1024:,.1f} KiB an image, {size * 2e5 / 1e9:,.2f} GB for "
            "200,000 images"
        )


def flops(
    task: DiffusionTask, shape: tuple[int, int, int], grid: tuple[int, int]
) -> tuple[float, float]:
    """(forward, backward) of one image's step with all its losses, counted by PyTorch."""
    from torch.utils.flop_counter import FlopCounterMode

    network, aligner = task.backbone, task.aligner
    assert isinstance(network, SDUNet) and aligner is not None
    aligner.to("meta")
    z, t = torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta")
    text = torch.empty(1, *network.conditions.null_text.shape, device="meta")
    with FlopCounterMode(display=False) as counter:
        out = network(z, t, _condition(network, text), taps=aligner.taps)
        students = aligner.students(out, t, math.prod(grid))
        total = torch.stack([out.sample.sum(), *(tokens.sum() for tokens in students)]).sum()
        forward = counter.get_total_flops()
        total.backward()
    return forward, counter.get_total_flops() - forward


def _condition(network: SDUNet, text: Tensor) -> dict[str, Tensor]:
    """One sample's condition, without numbers."""
    found = {"text": text}
    if network.conditions.pooled is not None:
        found["pooled"] = torch.empty(1, network.conditions.pooled, device="meta")
        found["time_ids"] = torch.empty(1, 6, device="meta")
    return found


def _teacher(cfg: UREPAConfig) -> tuple[tuple[int, tuple[int, int]], str]:
    """((width, grid) of the tokens, "" or that they are assumed)."""
    try:
        encoder = cfg.teacher.build()
    except UserError:
        (width, grid), unknown = DINOV2_L, " (not at hand here; DINOv2-L at 224 px assumed)"
    else:
        assert encoder.grid is not None
        side, channels = cfg.transform.resolution, cfg.transform.channels
        tokens = encoder(torch.zeros(1, channels, side, side)).tokens
        assert tokens is not None
        width, grid, unknown = tokens.shape[2], encoder.grid, ""
    return (width, cfg.caches.grid or grid), unknown
