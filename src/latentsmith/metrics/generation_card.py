"""How good is a generator? Distances and coverage of its samples' features, as one card."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.checks import check_finite
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.metrics.frechet import frechet_from_stats, gaussian_floor, reference_floor
from latentsmith.metrics.prdc import manifolds
from latentsmith.metrics.registry import METRICS
from latentsmith.utils.seeding import generator

MANIFOLD = ("precision", "recall", "density", "coverage")


@schema
class GenerationConfig:
    """How generated samples are measured."""

    neighbours: int = 5
    """k of precision, recall, density and coverage."""
    resamples: int = 200
    """Resampled values behind each interval."""
    seed: int = 0
    """Seeds subsets and resampling."""
    points: int = 10_000
    """Samples of each side used at most where the cost grows with their square (all but the
    Fréchet distance)."""


def measure_generation(
    features: Tensor,
    reference: FeatureStats | Tensor,
    *,
    space: str,
    stamp: Stamp,
    reference_features: Tensor | None = None,
    cfg: GenerationConfig | None = None,
    k: int | None = None,
    seed: int | None = None,
    resamples: int | None = None,
) -> LatentCard:
    """``fd``, ``kid``, ``precision``, ``recall``, ``density``, ``coverage`` of generated samples.

    Args:
        features: of the generated samples [N, D].
        reference: of the real ones: statistics, or features [M, D].
        space: the feature space, the end of every name.
        stamp: data, sampler, steps, ema; count and space are filled in here.
        reference_features: real features [M, D] where ``reference`` holds statistics only; without
            them only ``fd`` is measured.
        k, seed, resamples: instead of ``cfg``'s.

    What cannot be measured goes to ``not_measured`` with the reason.
    """
    given = {"neighbours": k, "seed": seed, "resamples": resamples}
    cfg = replace(cfg or GenerationConfig(), **{n: v for n, v in given.items() if v is not None})
    real = reference if isinstance(reference, Tensor) else reference_features
    stamp = replace(stamp, count=len(features), space=space)
    card = LatentCard()
    try:
        check_finite(features, "generated features")
        _frechet(card, features, reference, real, stamp, cfg)
    except UserError as reason:
        card.not_measured[f"fd_{space}"] = str(reason)
    try:
        if real is None:
            raise UserError("needs the reference's features, not only their statistics.")
        _pairwise(card, features, real, stamp, cfg)
    except UserError as reason:
        for name in ("kid", *MANIFOLD):
            card.not_measured.setdefault(f"{name}_{space}", str(reason))
    return card


def _frechet(
    card: LatentCard,
    features: Tensor,
    reference: FeatureStats | Tensor,
    real: Tensor | None,
    stamp: Stamp,
    cfg: GenerationConfig,
) -> None:
    """Against all of the reference, with the floor at this n."""
    if isinstance(reference, Tensor):
        reference = FeatureStats.of(reference, stamp.space)
    value = frechet_from_stats(FeatureStats.of(features, reference.space), reference)
    n = len(features)
    floor, how = (
        gaussian_floor(reference, n, seed=cfg.seed)
        if real is None
        else reference_floor(real, n, seed=cfg.seed)
    )
    detail = {**stamp.detail, "reference_count": reference.n, **how}
    card.measurements.append(
        METRICS["fd"].from_replicates(
            value,
            None,
            stamp=replace(stamp, detail=detail),
            suffix=stamp.space,
            seed=cfg.seed,
            baseline=(floor, {"baseline": "the reference's own distribution at this n"}),
        )
    )


def _subset(x: Tensor, count: int, name: str, seed: int) -> Tensor:
    """``count`` random rows of x, in order."""
    if len(x) <= count:
        return x
    index = torch.randperm(len(x), generator=generator("generation", name, seed))[:count]
    return x[index.sort().values]


def _pairwise(
    card: LatentCard, features: Tensor, real: Tensor, stamp: Stamp, cfg: GenerationConfig
) -> None:
    """What compares samples with samples: equally many of both sides."""
    n = min(len(features), len(real), cfg.points)
    made, real = _subset(features, n, "made", cfg.seed), _subset(real, n, "real", cfg.seed)
    stamp = replace(stamp, count=n, detail={**stamp.detail, "reference_count": n})
    how: dict[str, Any] = {"resamples": cfg.resamples, "seed": cfg.seed}
    card.add("kid", made, real, stamp=stamp, space=stamp.space, **how)
    found = manifolds(made, real, k=cfg.neighbours)
    stamp = replace(stamp, detail={**stamp.detail, "k": cfg.neighbours})
    for name in MANIFOLD:
        metric = METRICS[name]
        chance = (
            metric.baseline(made, real, seed=cfg.seed, k=cfg.neighbours)
            if metric.baseline is not None
            else (None, {})
        )
        card.measurements.append(
            metric.from_samples(
                getattr(found, name), stamp=stamp, suffix=stamp.space, baseline=chance, **how
            )
        )
