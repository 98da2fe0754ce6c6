"""Variations of images by any generator, without training: SDEdit (Meng et al. 2021, arXiv
2108.01073).

An image's latent is noised to a time t, the strength, and the sampler goes on from there: what the
noise drowns is made anew, the rest is kept.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.errors import UserError
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.guidance import GuidanceConfig
from latentsmith.sampling.noise import starting_noise
from latentsmith.sampling.samplers import SamplerConfig


def variation(
    generator: LatentGenerator,
    images: Tensor,
    *,
    sampler: SamplerConfig,
    guidance: GuidanceConfig,
    strength: float = 0.6,
    indices: Sequence[int] | Tensor | None = None,
    seed: int = 0,
    labels: Tensor | None = None,
    condition: Condition | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Images like those given, [N, C, H, W] in [0, 1], on the CPU.

    Variation i is a pure function of (image, seed, indices[i]): to have several of an image, repeat
    it. The batch size does not matter (beyond the last digits of the network's arithmetic).

    Args:
        images: [N, C, H, W] in [0, 1], of the generator's resolution and channels.
        strength: time the images are noised to, 0 to 1. 0: the images as the autoencoder gives them
            back. 1: nothing of them. The sampler takes about this share of its steps.
        indices: which noise each gets [N]; default 0 … N − 1.
        labels: class of each [N].
        condition: instead of labels, what each is to show, [N, …] by name (`generator.prompt`).
            Without both, nothing is said of it.

    Raises:
        UserError: a strength outside [0, 1], images, labels or a condition that do not fit the
            generator, or a generator without autoencoder.
    """
    if not 0 <= strength <= 1:
        raise UserError(
            f"strength={strength:g}: give a number from 0 (the image itself) to 1 (nothing of it)"
        )
    latents = generator.encode(images, batch_size=batch_size)
    if strength == 0:
        return generator.decode(latents, batch_size=batch_size)
    where = torch.as_tensor(range(len(images)) if indices is None else indices, dtype=torch.int64)
    noised = starting_noise(seed, where, latents.shape[1:])
    if strength < 1:
        start = sampler.times_from(generator.path, strength)[:1]
        source = generator.normalizer.normalize(latents)
        noised = generator.path.mix(source, noised, start.expand(len(source)))
    made = generator.sample_latents(
        where,
        sampler=sampler,
        guidance=guidance,
        seed=seed,
        labels=labels,
        condition=generator.told(len(images), labels, condition),
        noise=noised,
        start=strength,
        batch_size=batch_size,
    )
    return generator.decode(made, batch_size=batch_size)
