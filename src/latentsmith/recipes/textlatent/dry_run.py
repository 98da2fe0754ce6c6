"""What a run would be, found out without data, encoder or training: on the meta device.

Where the corpus decides (vocabulary, width of the latents), the most it may be is taken.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from latentsmith.backbones.mmdit import TextLatentNet
from latentsmith.backbones.text_inverter import TextInverter
from latentsmith.config.run import Run
from latentsmith.recipes.textlatent.config import TextLatentRecipe
from latentsmith.training.config import TrainConfig
from latentsmith.training.plan import length

WIDTH = 384
"""Width of latents assumed: MiniLM's, and that of many sentence encoders."""
CORE = 2e10
"""FLOP/s of one CPU core that small matrices reach."""
H100, SHARE = 790e12, 0.3
"""Dense bfloat16 FLOP/s of an H100, and the share of it that small matrices reach."""


def dry_run(cfg: TextLatentRecipe, run: Run) -> None:
    """Print the plan: shapes, parameters, FLOPs and looks of each training, disk, time.

    Raises:
        UserError: a batch that the processes cannot share, or settings that do not fit.
    """
    shape = cfg.tokens.vocabulary + 4, cfg.tokens.length, (1, WIDTH)
    with torch.device("meta"):
        network = cfg.network.build(*shape)
    size = _count(network)
    most = getattr(cfg.data, "train_count", None)
    print(f"texts          {cfg.data.kind}, {f'{most:,}' if most else 'all'} for training")
    print(f"tokens         {cfg.tokens.kind}, {cfg.tokens.length} a text, at most {shape[0]:,} ids")
    print(f"latents        {cfg.text_encoder.kind}, taken as {WIDTH} wide; {cfg.normalizer.kind}")
    print(f"pairs          {cfg.pairing.paired:.0%} of the training rows")
    print(f"network        {cfg.network.size}, share={cfg.network.share}, {size:,} parameters")
    look = _model_flops(network)
    total = 0.0
    for arm in cfg.arms:
        looks = looks_of(cfg, arm == "cycles")
        flops = look * looks * cfg.train.samples
        total += flops
        print(f"{arm:14} {looks:.1f} looks a sample at most, {look / 1e9:,.2f} GFLOP each; "
              f"{length(cfg.train)}")  # fmt: skip
    for order in cfg.baselines.trained:
        train = cfg.baselines.train or cfg.train
        matched = replace(cfg.baselines.inverter, order=order).matched(size, *shape)
        with torch.device("meta"):
            decoder = matched.build(*shape)
        total += _trained(order, decoder, train)
    print(
        f"all trainings  {total:.2e} FLOP: about {total / CORE / 60:,.0f} minutes of one CPU core, "
        f"or {total / (H100 * SHARE) / 3600:,.2f} hours of one H100 at {SHARE:.0%} of its peak"
    )
    copies = 4 * cfg.train.keep_last * len(cfg.arms)
    rows = (most or 100_000) * WIDTH * 2
    print(f"disk           {copies * 4 * size / 1e6:,.0f} MB of checkpoints at most, latents "
          f"{rows / 1e6:,.0f} MB")  # fmt: skip


def looks_of(cfg: TextLatentRecipe, cycles: bool) -> float:
    """Looks of the network per training sample at most, those without gradient counted as whole."""
    modes = cfg.learn.modes.mode
    base = len(modes.split("+"))
    if not cycles:
        return base
    text, latent, prior = cfg.learn.cycles.t2l2t, cfg.learn.cycles.l2t2l, cfg.learn.prior
    looks = float(base)
    if text.weight > 0:
        looks += 2 * text.repeats / text.every
    elif prior.weight > 0:
        looks += 1 / prior.every
    if latent.weight > 0:
        looks += (latent.steps + 1) * latent.repeats / latent.every
    return looks


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _flops(loss: Callable[[], Tensor]) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        loss().backward()
    return counter.get_total_flops()


def _model_flops(network: TextLatentNet) -> float:
    """Forward and backward of one sample with all tokens hidden."""

    def loss() -> Tensor:
        t = torch.ones(1, device="meta")
        tokens = torch.zeros(1, network.length, dtype=torch.int64, device="meta")
        places = torch.arange(network.length, device="meta")
        z = torch.zeros(1, *network.latent_shape, device="meta")
        out = network(tokens, z, t, t, positions=places)
        assert out.logits is not None and out.latent is not None
        return out.logits.sum() + out.latent.sum()

    return _flops(loss)


def _trained(name: str, network: TextInverter, train: TrainConfig) -> float:
    """FLOPs of a decoder's training; prints its line."""

    def loss() -> Tensor:
        tokens = torch.zeros(1, network.length, dtype=torch.int64, device="meta")
        latents = torch.zeros(1, *network.latent_shape, device="meta")
        return network(tokens, latents).sum()

    flops = _flops(loss)
    print(f"{name:14} {_count(network):,} parameters, {flops / 1e9:,.2f} GFLOP a sample; "
          f"{length(train)}")  # fmt: skip
    return flops * train.samples
