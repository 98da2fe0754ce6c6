"""Tiny field autoencoders."""

import torch

from latentsmith.autoencoders.field.decoders import DECODERS
from latentsmith.autoencoders.field.features import FourierConfig
from latentsmith.autoencoders.field.model import (
    FieldAutoencoder,
    FieldAutoencoderConfig,
    LatentConfig,
)
from latentsmith.autoencoders.field.planes import plane_numbers
from latentsmith.backbones.mixers import MIXERS

DECODER: dict[str, dict] = {
    "cross": {"heads": 2},
    "joint": {},
    "local": {"nearest": 3},
    "pointwise": {},
    "scan": {"head": 8, "state": 4},
}
"""Settings that make a tiny decoder; a new one needs a line."""
EXACT = sorted(name for name in DECODER if DECODERS[name].config.exact)


def field_config(
    decoder: str = "cross", *, tokens: int = 4, planes: bool = True, learned: int = 3, **settings
) -> FieldAutoencoderConfig:
    """Of width 16, with one block on either side; tokens of a plane and ``learned`` numbers."""
    shape = {"resolution": 24, "lattice": 8, "width": 16, "depth": 1, "heads": 2}
    code = plane_numbers(settings.get("channels", 3), settings.get("dims", 2)) + learned
    return FieldAutoencoderConfig(
        **(shape | settings),
        latent=LatentConfig(tokens=tokens, channels=code, planes=planes),
        mixer=MIXERS["ssd"].config(curves=["hilbert"], state=4, head=8),
        decoder=DECODERS[decoder].config(depth=2, trunk=1, **DECODER[decoder]),
        fourier=FourierConfig(count=4, scale=1.0, cutoff=4.0),
    )


def randomized(network: torch.nn.Module, seed: int = 0, spread: float = 0.2) -> torch.nn.Module:
    """Gates and heads start at 0, where nothing shows: move every weight."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=rng))
    return network


def field_autoencoder(decoder: str = "cross", **settings) -> FieldAutoencoder:
    """As after some training: no weight is where it started."""
    autoencoder = field_config(decoder, **settings).build()
    randomized(autoencoder)
    return autoencoder


def points(count: int = 20, *, dims: int = 2, channels: int = 3, batch: int = 2, seed: int = 0):
    """(coordinates [B, N, d], values [B, N, C])."""
    rng = torch.Generator().manual_seed(seed)
    where = 2 * torch.rand(batch, count, dims, generator=rng) - 1
    return where, 2 * torch.rand(batch, count, channels, generator=rng) - 1
