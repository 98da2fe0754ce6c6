"""A card: measurements, what could not be measured and why, and the tensors behind the figures."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.metrics.equivariance import TRANSFORMS, Transform
from latentsmith.metrics.intervals import percentiles
from latentsmith.metrics.registry import METRICS


@schema
class CardConfig:
    """How a latent card is measured."""

    points: int = 4096
    """Samples used at most for pair geometry (memory grows with the square: 134 MB a space)."""
    resamples: int = 200
    """Bootstrap replicates behind each interval."""
    seed: int = 0
    """Seeds subsampling, bootstrap and path pairs."""
    neighbours: int = 10
    """k of mutual k-NN, trustworthiness, continuity and k-NN accuracy."""
    id_neighbours: int = 20
    """k of the maximum-likelihood intrinsic dimension."""
    paths: int = 32
    """Pairs of latents whose paths are decoded."""
    steps: int = 8
    """Steps per path."""
    eps: float = 1e-2
    """Step in t behind the perceptual path length."""
    midpoints: int = 2048
    """Samples behind the iFID-like distance (`ifd_<space>`)."""
    equivariance_images: int = 256
    """Images behind each equivariance error."""
    transforms: list[Transform] = field(default_factory=lambda: list(TRANSFORMS))
    """Image transforms whose equivariance error is measured."""
    batch_size: int = 64
    """Images per call of encode, decode and feature extractors; one value, since the last digits
    of features depend on it."""


@dataclass
class LatentCard:
    """Measurements of one autoencoder. Iterating gives them in the order they were made."""

    measurements: list[Measurement] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)
    """Name → why: a collapsed space or too few samples costs that number, not the card."""
    figures: dict[str, Tensor] = field(default_factory=dict)
    """Tensors for plots, by name; `latent_card` lists them."""

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self.measurements)

    def get(self, name: str) -> Measurement | None:
        """The measurement called ``name`` (with its space), None when there is none."""
        return next((m for m in self.measurements if m.name == name), None)

    def add(
        self,
        metric: str,
        *inputs: Any,
        stamp: Stamp,
        space: str = "",
        label: str | None = None,
        **how: Any,
    ) -> Measurement | None:
        """Measure ``metric`` and keep it, or keep the reason why it has no value.

        Args:
            space: feature space or reference; goes into the stamp and the name's end.
            label: another ending of the name (two settings of one metric in one space).
            how: passed to `Metric.measure`: options, resamples, seed, baseline.
        """
        suffix = "_".join(part for part in (label, space) if part)
        name = metric + (f"_{suffix}" if suffix else "")
        try:
            found = METRICS[metric].measure(
                *inputs, stamp=replace(stamp, space=space or stamp.space), suffix=suffix, **how
            )
        except UserError as reason:
            self.not_measured[name] = str(reason)
            return None
        self.measurements.append(found)
        return found

    def extend(self, other: "LatentCard") -> "LatentCard":
        """Take over another card's content."""
        self.measurements += other.measurements
        self.not_measured |= other.not_measured
        self.figures |= other.figures
        return self

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict (without figures)."""
        return {
            "measurements": [m.to_json() for m in self.measurements],
            "not_measured": self.not_measured,
        }


def joint_difference(
    card: LatentCard, baseline: LatentCard, name: str, baseline_name: str | None = None
) -> tuple[float, float] | None:
    """95 % interval of ``name``'s value on ``card`` minus that on ``baseline``, where it may go by
    another name.

    Both cards resample the same samples in the same order (bootstrap weights are a function of
    count and seed alone), so what the samples themselves add to both values cancels: much sharper
    than two separate intervals. None when a value has no draws or the protocols differ.
    """
    a, b = card.get(name), baseline.get(baseline_name or name)
    if a is None or b is None or a.draws is None or b.draws is None:
        return None
    same = (a.stamp.data, a.stamp.count, a.stamp.seed, len(a.draws)) == (
        b.stamp.data,
        b.stamp.count,
        b.stamp.seed,
        len(b.draws),
    )
    return percentiles(a.draws - b.draws) if same else None
