"""Parts of images made anew by any generator, without training: RePaint (Lugmayr et al. 2022, arXiv
2201.09865).

At every step the known part of the latent is put back, noised to the step's time. The noise is the
image's starting noise, where the paper draws another at every step: the distribution at each time
is the same, and known and new part lie on one trajectory of a deterministic sampler.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.diffusion.paths import Path
from latentsmith.errors import UserError
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.guidance import GuidanceConfig
from latentsmith.sampling.noise import starting_noise
from latentsmith.sampling.samplers import SamplerConfig
from latentsmith.sampling.samplers.base import Constrain
from latentsmith.utils.seeding import stream_seed


def inpaint(
    generator: LatentGenerator,
    images: Tensor,
    masks: Tensor,
    *,
    sampler: SamplerConfig,
    guidance: GuidanceConfig,
    rounds: int = 1,
    back_to: float = 0.5,
    paste: bool = True,
    indices: Sequence[int] | Tensor | None = None,
    seed: int = 0,
    labels: Tensor | None = None,
    condition: Condition | None = None,
    batch_size: int = 64,
) -> Tensor:
    """The images with their masked part made anew, [N, C, H, W] in [0, 1], on the CPU.

    Result i is a pure function of (image, mask, seed, indices[i]): to have several of an image,
    repeat it. The batch size does not matter (beyond the last digits of the network's arithmetic).

    Args:
        images: [N, C, H, W] in [0, 1], of the generator's resolution and channels.
        masks: [N or 1, 1, H, W], where true (or above 0.5) is made anew. A latent cell with any
            such pixel is made anew as a whole.
        rounds: how often; each round after the first noises the result to ``back_to`` and comes
            down again, so that the new part fits the known one better: the paper's resampling, with
            one long jump.
        back_to: time that later rounds start at, in (0, 1].
        paste: put the pixels outside the mask back from the images; else they are the decoder's.
        indices: which noise each gets [N]; default 0 … N − 1.
        labels: class of each [N].
        condition: instead of labels, what each is to show, [N, …] by name (`generator.prompt`).
            Without both, nothing is said of it.

    Raises:
        UserError: masks that do not fit the images or leave nothing to make, no round, images,
            labels or a condition that do not fit the generator, or a generator without autoencoder.
    """
    if rounds < 1:
        raise UserError(f"rounds={rounds}: give 1 or more")
    masks = _checked(masks, images)
    source = generator.normalizer.normalize(generator.encode(images, batch_size=batch_size))
    factor = images.shape[-1] // source.shape[-1]
    cells = F.max_pool2d(masks.float(), factor) > 0  # one masked pixel makes the cell new
    where = torch.as_tensor(range(len(images)) if indices is None else indices, dtype=torch.int64)
    how: dict[str, Any] = {
        "sampler": sampler,
        "guidance": guidance,
        "labels": labels,
        "condition": generator.told(len(images), labels, condition),
        "batch_size": batch_size,
    }
    made = _round(generator, source, cells, None, where, seed=seed, start=1.0, **how)
    for number in range(1, rounds):
        own = stream_seed(seed, "inpaint round", number)
        made = _round(generator, source, cells, made, where, seed=own, start=back_to, **how)
    found = generator.decode(made, batch_size=batch_size)
    return torch.where(masks, found, images.float().cpu()) if paste else found


def _round(
    generator: LatentGenerator,
    source: Tensor,
    cells: Tensor,
    before: Tensor | None,
    indices: Tensor,
    *,
    sampler: SamplerConfig,
    seed: int,
    start: float,
    **how: Any,
) -> Tensor:
    """Raw latents [N, C, h, w] whose new cells were sampled from the time ``start`` on: from noise,
    or from the raw latents of the round before."""
    path, noise = generator.path, starting_noise(seed, indices, source.shape[1:])
    first = sampler.times_from(path, start)[:1].expand(len(source))
    new = noise
    if before is not None:
        new = path.mix(generator.normalizer.normalize(before), noise, first)
    return generator.sample_latents(
        indices,
        sampler=sampler,
        seed=seed,
        noise=torch.where(cells, new, path.mix(source, noise, first)),
        start=start,
        constrain=_known(source, noise, cells, path),
        **how,
    )


def _known(
    source: Tensor, noise: Tensor, cells: Tensor, path: Path
) -> Callable[[Tensor], Constrain]:
    """Rows of a batch → what puts their known cells back, noised to the state's time."""

    def of(rows: Tensor) -> Constrain:
        def constrain(state: Tensor, t: float) -> Tensor:
            data, own, new = (x[rows].to(state.device) for x in (source, noise, cells))
            at = torch.full((len(rows),), t, dtype=torch.float64)
            return torch.where(new, state, path.mix(data, own, at).to(state))

        return constrain

    return of


def _checked(masks: Tensor, images: Tensor) -> Tensor:
    """Bool [N, 1, H, W] on the CPU. Raises UserError for masks that do not fit."""
    sizes = [(n, 1, *images.shape[2:]) for n in (1, len(images))]
    if tuple(masks.shape) not in sizes:
        raise UserError(
            f"masks of shape {list(masks.shape)} for images {list(images.shape)}: give "
            f"{list(sizes[-1])}, or one for all"
        )
    masks = (masks > 0.5 if masks.dtype != torch.bool else masks).cpu().expand(sizes[-1])
    if not bool(masks.any()):
        raise UserError("the mask is empty: mark what is to be made anew (1, or white)")
    return masks
