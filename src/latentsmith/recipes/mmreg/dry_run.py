"""What a run would be, found out without weights, data or training: on the meta device."""

import math

import torch

from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.autoencoders.on_meta import on_meta
from latentsmith.backbones.base import Backbone
from latentsmith.config.run import Run
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.errors import UserError
from latentsmith.recipes.mmreg.config import TRAINED_REFERENCE, MMRegConfig
from latentsmith.recipes.mmreg.generation_config import GenerationConfig
from latentsmith.training.plan import length


def dry_run(cfg: MMRegConfig, run: Run) -> None:
    """Print the plan: shapes, parameters, FLOPs of a step, memory of the state, steps.

    Raises:
        UserError: resolution, channels or batch do not fit.
    """
    autoencoder, assumed = on_meta(cfg.autoencoder)
    resolution, channels = cfg.transform.resolution, autoencoder.channels
    shape = autoencoder.latent_shape(resolution)
    if channels != cfg.transform.channels:
        raise UserError(
            f"transform.channels is {cfg.transform.channels}, the autoencoder takes {channels}"
        )
    parameters = sum(p.numel() for p in autoencoder.parameters())
    state = parameters * 4 * (4 if cfg.finetune.ema is None else 5)  # weight, gradient, two moments
    print(f"data           {cfg.data.kind}, {channels}x{resolution}x{resolution}")
    print(f"autoencoder    {cfg.autoencoder.source}{assumed}: {parameters:,} parameters")
    print(f"latents        {shape[0]}x{shape[1]}x{shape[2]} = {math.prod(shape):,} numbers")
    print(f"one step       {_step_flops(autoencoder, cfg) / 1e9:,.1f} GFLOP an image, both ways")
    print(f"training state {state / 2**30:.2f} GiB (weights, gradients, Adam, EMA; float32)")
    for name, train in (("pretrain", cfg.pretrain), ("finetune", cfg.finetune)):
        if train is not None:
            print(f"{name:14} {length(train)}")
    spaces = {TRAINED_REFERENCE: cfg.encoder, **cfg.more_references}
    how = "cached" if cfg.transform.build().deterministic else "computed on each crop"
    for name, config in spaces.items():
        used = name in cfg.terms
        role = f"weight {cfg.terms[name]:g} in the loss, {how}" if used else "measured only, cached"
        print(f"reference      {name} = {config.kind}: {role}")
    for name, loss in cfg.losses().items():
        print(f"{name:14} {loss.kind}, weight {loss.weight:g}, ramp {loss.ramp:g}")
    if not cfg.losses():
        print("regularizers   none: both arms are trained alike")
    _generation(cfg.generation, shape)


def _generation(cfg: GenerationConfig, shape: tuple[int, int, int]) -> None:
    """Stage C: the generator, its step, the cached latents, what scoring costs."""
    with torch.device("meta"):
        backbone = cfg.backbone.build(shape, 1000)  # the number of classes hardly matters
    DiffusionTask(backbone, cfg.diffusion, LatentNormalizer.identity(shape[0]))
    parameters = sum(p.numel() for p in backbone.parameters())
    stored = 2 * 2 * math.prod(shape) * (2 if cfg.flip else 1)  # mean and logvar in float16
    tokens = backbone.grid[0] * backbone.grid[1]
    print(f"generator      {cfg.backbone.kind}, {parameters:,} parameters, {tokens} tokens")
    print(
        f"               {_generator_flops(backbone, shape) / 1e9:,.2f} GFLOP a sample, both ways"
    )
    print(f"latents store  {stored / 1024:,.1f} KiB an image and arm")
    print(f"generators     {cfg.seeds} per arm, {length(cfg.train)}")
    marks = ", ".join(f"{n:,}" for n in cfg.milestones())
    print(f"scores         {cfg.count:,} images by {cfg.sampler.kind} at {marks} samples")


def _generator_flops(backbone: Backbone, shape: tuple[int, int, int]) -> float:
    """Forward and backward of one sample, counted by PyTorch."""
    from torch.utils.flop_counter import FlopCounterMode

    z, t = torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta")
    label = {"label": torch.zeros(1, dtype=torch.int64, device="meta")}
    with FlopCounterMode(display=False) as counter:
        backbone(z, t, label).sample.sum().backward()
    return counter.get_total_flops()


def _step_flops(autoencoder: KLAutoencoder, cfg: MMRegConfig) -> float:
    """Forward and backward of one image, counted by PyTorch."""
    from torch.utils.flop_counter import FlopCounterMode

    side = cfg.transform.resolution
    image = torch.empty(1, autoencoder.channels, side, side, device="meta")
    with FlopCounterMode(display=False) as counter:
        autoencoder.decode(autoencoder.encode(image).mode()).sum().backward()
    return counter.get_total_flops()
