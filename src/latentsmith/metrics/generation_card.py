"""How good is a generator? Distances and coverage of its samples' features, as one card."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.checks import check_finite
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.metrics.frechet import mean_and_root, nuclear_norm
from latentsmith.metrics.frechet_interval import frechet_draws, frechet_influence
from latentsmith.metrics.frechet_names import frechet_name
from latentsmith.metrics.generation_reference import GenerationReference, random_rows
from latentsmith.metrics.kid import kid_draws
from latentsmith.metrics.prdc import manifolds
from latentsmith.metrics.registry import METRICS

MANIFOLD = ("precision", "recall", "density", "coverage")


@schema
class GenerationCardConfig:
    """How generated samples are measured."""

    neighbours: int = 5
    """k of precision, recall, density and coverage."""
    resamples: int = 200
    """Resampled values behind each interval; 0: none."""
    seed: int = 0
    """Seeds subsets and resampling."""
    points: int = 10_000
    """Samples of each side used at most where the cost grows with their square (all but the
    Fréchet distance, which takes all)."""
    infinity: bool = False
    """Also the Fréchet distance extrapolated to infinitely many samples (15 decompositions more);
    of use where samples far outnumber dimensions."""


def measure_generation(
    features: Tensor,
    reference: FeatureStats | Tensor | GenerationReference,
    *,
    space: str,
    stamp: Stamp,
    reference_features: Tensor | None = None,
    encoder: Mapping[str, object] | None = None,
    cfg: GenerationCardConfig | None = None,
    k: int | None = None,
    seed: int | None = None,
    resamples: int | None = None,
) -> LatentCard:
    """``fd``, ``kid``, ``precision``, ``recall``, ``density``, ``coverage`` of generated samples.

    ``fd`` is of all samples against all of the reference; the others of equally many of both sides.
    Every number carries what the real distribution itself would give (``baseline``) and an interval
    over samples. Intervals of two generators that started from the same noise are paired
    (`latentsmith.metrics.card.joint_difference`).

    Args:
        features: of the generated samples [N, D].
        reference: of the real ones: features [M, D], statistics, or a `GenerationReference`, which
            spares a third of the time from the second call on.
        space: the feature space, the end of every name.
        stamp: data, sampler, steps, ema; count and space are filled in here.
        reference_features: real features [M, D] where ``reference`` holds statistics only; without
            them only ``fd`` is measured.
        encoder: fingerprint of the encoder behind ``space``; stamped, and needed for the name FID
            (`frechet_name`).
        k, seed, resamples: instead of ``cfg``'s.

    Raises:
        UserError: NaN in the reference, or statistics of another space. What cannot be measured of
            the generated samples (NaN, too few) goes to ``not_measured`` with the reason.
    """
    given = {"neighbours": k, "seed": seed, "resamples": resamples}
    cfg = replace(
        cfg or GenerationCardConfig(), **{n: v for n, v in given.items() if v is not None}
    )
    real = GenerationReference.of(reference, space, reference_features)
    known = {} if encoder is None else {"encoder": dict(encoder)}
    stamp = replace(stamp, count=len(features), space=space, detail={**stamp.detail, **known})
    card = LatentCard()
    parts: list[tuple[tuple[str, ...], Callable[..., None]]] = [
        (("fd",), _frechet),
        (("kid",), _kernel),
        (MANIFOLD, _manifolds),
    ]
    if cfg.infinity:
        parts.insert(1, (("fd_infinity",), _infinity))
    for names, measure in parts:
        try:
            check_finite(features, "generated features")
            measure(card, features, real, stamp, cfg)
        except UserError as reason:
            card.not_measured |= {f"{name}_{space}": str(reason) for name in names}
    return card


def _frechet(
    card: LatentCard,
    features: Tensor,
    real: GenerationReference,
    stamp: Stamp,
    cfg: GenerationCardConfig,
) -> None:
    """Against all of the reference, with the floor at this n."""
    FeatureStats(len(real.stats.mean), real.space).update(features[:1])  # the same width?
    x = features.detach().double().cpu()
    n = len(x)
    floor, how = real.frechet_floor(n, cfg.seed)
    mean, root = mean_and_root(x)
    spread = root.square().sum() + real.stats.cov.trace() - 2 * nuclear_norm(root.T @ real.root)
    value = max(float((mean - real.stats.mean).square().sum() + spread), 0.0)
    draws = None
    if cfg.resamples:
        influence = frechet_influence(x, real.stats.mean, real.root)
        draws = frechet_draws(value, influence, cfg.resamples, cfg.seed)
    detail = {"reference_count": real.stats.n, "interval": "generated samples, reference fixed"}
    found = METRICS["fd"].from_replicates(
        value,
        draws,
        stamp=replace(stamp, detail={**stamp.detail, **detail}),
        suffix=real.space,
        seed=cfg.seed,
        baseline=(floor, {"baseline": "the reference's own distribution at this n", **how}),
    )
    name = frechet_name(real.space, n, stamp.detail.get("encoder"))
    card.measurements.append(replace(found, name=name))


def _infinity(
    card: LatentCard,
    features: Tensor,
    real: GenerationReference,
    stamp: Stamp,
    cfg: GenerationCardConfig,
) -> None:
    """Extrapolated in the generated samples; the reference stays as it is."""
    detail = {**stamp.detail, "reference_count": real.stats.n}
    card.add(
        "fd_infinity", features, real.all_rows, stamp=replace(stamp, detail=detail),
        space=real.space, seed=cfg.seed, resamples=0,
    )  # fmt: skip


def _equal(
    features: Tensor, real: GenerationReference, stamp: Stamp, cfg: GenerationCardConfig
) -> tuple[Tensor, Tensor, Stamp]:
    """Equally many of both sides, stamped."""
    most = min(len(real.all_rows), cfg.points)
    made = random_rows(features.detach().cpu(), most, cfg.seed, "made")
    kept = real.rows(len(made), cfg.seed)
    detail = {**stamp.detail, "reference_count": len(made)}
    return made, kept, replace(stamp, count=len(made), detail=detail)


def _kernel(
    card: LatentCard,
    features: Tensor,
    real: GenerationReference,
    stamp: Stamp,
    cfg: GenerationCardConfig,
) -> None:
    made, kept, stamp = _equal(features, real, stamp, cfg)
    value, draws = kid_draws(made, kept, replicates=cfg.resamples, seed=cfg.seed)
    card.measurements.append(
        METRICS["kid"].from_replicates(
            value,
            draws if cfg.resamples else None,
            stamp=stamp,
            suffix=real.space,
            seed=cfg.seed,
            baseline=(0.0, {"baseline": "two sets of one distribution"}),
        )
    )


def _manifolds(
    card: LatentCard,
    features: Tensor,
    real: GenerationReference,
    stamp: Stamp,
    cfg: GenerationCardConfig,
) -> None:
    """Precision, recall, density, coverage."""
    made, kept, stamp = _equal(features, real, stamp, cfg)
    n, k, seed = len(made), cfg.neighbours, cfg.seed
    found = manifolds(made, kept, k=k, radii=real.radii(n, k, seed) if n > k else None)
    stamp = replace(stamp, detail={**stamp.detail, "k": k})
    floors = real.manifold_floors(n, k, seed)
    for name in MANIFOLD:
        metric = METRICS[name]
        chance = floors.get(name, (None, {}))
        if metric.baseline is not None:
            chance = metric.baseline(made, kept, seed=seed, k=k)
        card.measurements.append(
            metric.from_samples(
                getattr(found, name),
                stamp=stamp,
                suffix=real.space,
                baseline=chance,
                resamples=cfg.resamples,
                seed=seed,
            )
        )
