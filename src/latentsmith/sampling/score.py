"""A trained generator's images against held-out ones, every process making its part."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.encoders.base import Encoder
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.generation_card import measure_generation
from latentsmith.metrics.generation_reference import GenerationReference
from latentsmith.sampling.clip_pairs import ClipPairs
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.many import Score, made_latents
from latentsmith.training.team import Team
from latentsmith.utils.distributed import gather_rows

SHOWN = 64
"""Generated images kept for a report's grids, the first of every score."""

Spaces = Sequence[tuple[Encoder, GenerationReference]]
"""Encoders with the held-out images' features."""


def reference_features(encoder: Encoder, rows: Tensor) -> tuple[Encoder, GenerationReference]:
    """One of `Spaces`, from an encoder's raw vectors [N, D] of real images; unreadable ones are
    NaN."""
    return encoder, GenerationReference(rows[rows.isfinite().all(1)], encoder.name)


def score_generator(
    generator: LatentGenerator,
    spaces: Spaces,
    how: Score,
    team: Team,
    *,
    stamp: Stamp,
    condition: Condition | None = None,
    clip: ClipPairs | None = None,
) -> LatentCard:
    """Generate, and compare in every space; all processes get the numbers.

    Args:
        stamp: data, ema and detail; the rest is filled in.
        condition: what image i is made from [count, …] by name, for generators without classes.
        clip: also measures whether images show their texts.

    Returns:
        Card with the figure ``samples`` [at most `SHOWN`, C, H, W], those of this process.
    """
    with made_latents(generator, how, team, condition=condition) as latents:
        images = generator.decode(latents, batch_size=how.batch_size)
        return score_images(images, spaces, how, team, stamp=stamp, clip=clip)


def score_images(
    images: Tensor,
    spaces: Spaces,
    how: Score,
    team: Team,
    *,
    stamp: Stamp,
    clip: ClipPairs | None = None,
) -> LatentCard:
    """The measuring half of `score_generator`.

    Args:
        images: this process's part of the ``how.count`` generated ones [n, C, H, W] in [0, 1].
    """
    stamp = replace(
        stamp,
        count=how.count,
        seed=0,
        sampler=how.sampler.kind,
        steps=getattr(how.sampler, "steps", None),
        detail={**stamp.detail, "guidance": how.guidance.kind},
    )
    card = LatentCard(figures={"samples": images[:SHOWN]})
    for encoder, reference in spaces:
        parts = [encoder.vector(x.to(team.device)).cpu() for x in images.split(how.batch_size)]
        card.extend(
            measure_generation(
                gather_rows(torch.cat(parts)),
                reference,
                space=encoder.name,
                stamp=stamp,
                encoder=encoder.fingerprint(),
                resamples=how.resamples,
            )
        )
    if clip is not None:
        seen = [clip.images(x.to(team.device)).cpu() for x in images.split(how.batch_size)]
        pair = gather_rows(torch.cat(seen)), clip.texts(torch.arange(how.count))
        about = replace(stamp, detail={**stamp.detail, "clip": clip.name})
        card.add("clip_score", *pair, stamp=about, resamples=how.resamples)
    return card
