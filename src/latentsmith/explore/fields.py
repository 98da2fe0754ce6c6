"""A picture known at a few points only, and what a field autoencoder makes of it at any side."""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.data.fields import ImageField, observe
from latentsmith.data.fields.patterns.random import RandomConfig
from latentsmith.data.transforms import resize
from latentsmith.errors import UserError
from latentsmith.metrics.reconstruction import psnr
from latentsmith.utils.seeding import generator


@dataclass(frozen=True)
class Filled:
    """All pictures in [0, 1].

    Attributes:
        given: the known points on their lattice [C, L, L], white where nothing is known.
        made: side → picture [C, R, R].
        psnr: side → dB against the truth at that side, up to the truth's own.
    """

    given: Tensor
    made: dict[int, Tensor]
    psnr: dict[int, float]


@torch.no_grad()
def fill(
    autoencoder: FieldAutoencoder, image: Tensor, *, points: int, sides: list[int], seed: int
) -> Filled:
    """From ``points`` random lattice points of an image [C, R, R] in [0, 1].

    Raises:
        UserError: a field of another kind, or other than 1 to all of the points.
    """
    config = autoencoder.config
    if config.dims != 2 or config.channels not in (1, 3):
        raise UserError("this autoencoder's fields are no pictures: use latentsmith reconstruct")
    field = ImageField(2 * image[None] - 1)
    rng = generator(seed, "given points")
    where, what, known = observe(field, config.lattice, points, RandomConfig().build(), rng)
    device = next(autoencoder.parameters()).device
    codes = autoencoder.encode_points(where.to(device), what.to(device))
    made = {
        side: ((autoencoder.decode_grid(codes, side)[0].cpu() + 1) / 2).clamp(0, 1)
        for side in sides
    }
    lattice = resize(image, (config.lattice, config.lattice))
    shown = known.view(1, config.lattice, config.lattice).expand_as(lattice)
    truths = {s: resize(image, (s, s)) for s in sides if s <= image.shape[-1]}
    scores = {s: psnr(truth[None], made[s][None]) for s, truth in truths.items()}
    return Filled(torch.where(shown, lattice, torch.ones_like(lattice)), made, scores)
