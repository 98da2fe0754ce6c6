"""What a run would be, found out without data or training: on the meta device."""

import torch
from torch import nn

from latentsmith.autoencoders.field.flow import FieldFlowConfig
from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.backbones.mixers import Points
from latentsmith.config.run import Run
from latentsmith.recipes.field.config import FieldConfig
from latentsmith.training.plan import length


def dry_run(cfg: FieldConfig, run: Run) -> None:
    """Print the plan: shapes, parameters, FLOPs of each stage, size of the cache, GPU days."""
    autoencoder = cfg.field.build()
    shape = autoencoder.latent_shape(cfg.transform.resolution)
    network = cfg.latent.backbone.build(shape, None)
    known, asked = cfg.sampling.inputs[1], cfg.sampling.queries[1]
    print(f"data           {cfg.data.kind}, {cfg.transform.channels}x{cfg.transform.resolution}²")
    print(
        f"points         {cfg.sampling.inputs[0]}-{known} given of {cfg.field.lattice}², "
        f"{cfg.sampling.queries[0]}-{asked} asked"
    )
    print(f"encoder        {cfg.field.mixer.kind}, {_count(autoencoder.encoder):,} parameters")
    print(f"decoder        {cfg.field.decoder.kind}, {_count(autoencoder.decoder):,} parameters")
    print(f"code           {'x'.join(map(str, shape))}, flow {_count(network):,} parameters")
    costs = {"autoencoder": (_autoencoder_flops(autoencoder, known, asked), cfg.train)}
    costs["latent"] = (_network_flops(network, shape), cfg.latent.train)
    for name in cfg.flows.make:
        costs[name] = (_flow_flops(cfg, getattr(cfg.flows, name), known, asked), cfg.flows.train)
    for name, (flops, train) in costs.items():
        print(f"{name:18} {flops / 1e9:,.2f} GFLOP a sample at most; {length(train)}")
    total = sum(flops * train.samples for flops, train in costs.values())
    days = total / (H100 * SHARE) / 86_400
    print(
        f"all stages     {total:.2e} FLOP: {days:,.2f} days of one H100 at {SHARE:.0%} of its "
        "bfloat16 peak (scans reach less)"
    )
    count = getattr(cfg.data, "train_count", None)
    size = 2 * shape[0] * shape[1] * shape[2]
    total_size = f", {size * count / 1e9:,.2f} GB for {count:,}" if count else ""
    print(f"cached codes   {size / 1024:,.1f} KiB a sample{total_size}")


H100, SHARE = 790e12, 0.3
"""Dense bfloat16 FLOP/s of an H100, and the share of it that small matrices reach."""


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _points(count: int, dims: int) -> Points:
    return Points(torch.rand(1, count, dims) * 2 - 1)


def _autoencoder_flops(autoencoder: FieldAutoencoder, known: int, asked: int) -> float:
    """Forward and backward of one field, with the most points; small enough to be run."""
    from torch.utils.flop_counter import FlopCounterMode

    c = autoencoder.config
    with FlopCounterMode(display=False) as counter:
        codes = autoencoder.codes(_points(known, c.dims), torch.zeros(1, known, c.channels))
        autoencoder.values(codes, [_points(asked, c.dims)]).sum().backward()
    return counter.get_total_flops()


def _flow_flops(cfg: FieldConfig, config: FieldFlowConfig, known: int, asked: int) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    flow, coded = config.build(cfg.field), config.told == "code"
    count = cfg.field.latent.tokens if coded else known
    width = cfg.field.latent.channels if coded else cfg.field.channels
    points, queries = _points(count, cfg.field.dims), _points(asked, cfg.field.dims)
    with FlopCounterMode(display=False) as counter:
        context = flow.decoder.context(torch.zeros(1, count, width), points)
        noisy = torch.zeros(1, asked, cfg.field.channels)
        flow.decoder(context, points, queries, noisy=noisy, t=torch.ones(1)).sum().backward()
    return counter.get_total_flops()


def _network_flops(network: nn.Module, shape: tuple[int, int, int]) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape), torch.ones(1), {}).sample.sum().backward()
    return counter.get_total_flops()
