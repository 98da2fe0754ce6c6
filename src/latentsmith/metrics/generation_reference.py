"""The real samples that several sets of generated ones are measured against.

What depends on them alone (statistics, the same-distribution floor, the balls around them) is
computed once, however many training steps are scored.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_finite
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.metrics.frechet import covariance_root, gaussian_floor, reference_floor
from latentsmith.metrics.prdc import manifolds, squared_radii
from latentsmith.utils.seeding import generator

Floor = tuple[float | None, dict[str, Any]]
"""(what the real distribution itself gives, how that was found)."""


def random_rows(x: Tensor, count: int, seed: int, *names: str) -> Tensor:
    """``count`` random rows of x, in order; all of them when there are no more."""
    if len(x) <= count:
        return x
    index = torch.randperm(len(x), generator=generator("generation", *names, seed))[:count]
    return x[index.sort().values.to(x.device)]


class GenerationReference:
    """Real features in one space, for `measure_generation`.

    Args:
        reference: features [M, D], or their statistics.
        space: name of the feature space; must be that of the statistics (up to its ``@``).
        features: [M, D], where ``reference`` is statistics; None: only the Fréchet distance can be
            measured.

    Raises:
        UserError: NaN, or statistics of another space.
    """

    def __init__(
        self, reference: FeatureStats | Tensor, space: str, features: Tensor | None = None
    ):
        if isinstance(reference, Tensor):
            check_finite(reference, "reference features")
            features, reference = reference, FeatureStats.of(reference, space)
        elif space not in (reference.space, reference.space.split("@")[0]):
            raise UserError(
                f"the reference statistics are of {reference.space!r}, the generated features of "
                f"{space!r}: two feature spaces."
            )
        self.space, self.stats, self.features = space, reference, features
        self._known: dict[tuple[Any, ...], Any] = {}

    @classmethod
    def of(
        cls,
        reference: "FeatureStats | Tensor | GenerationReference",
        space: str,
        features: Tensor | None = None,
    ) -> "GenerationReference":
        """``reference`` itself when it is one already. Raises UserError when of another space."""
        if not isinstance(reference, GenerationReference):
            return cls(reference, space, features)
        if reference.space != space:
            raise UserError(
                f"the reference is of {reference.space!r}, the generated features of {space!r}: "
                "two feature spaces."
            )
        return reference

    @cached_property
    def root(self) -> Tensor:
        """R [D, r], R R' = the covariance."""
        return covariance_root(self.stats.cov, self.stats.n - 1)

    def frechet_floor(self, count: int, seed: int) -> Floor:
        """Expected Fréchet distance of ``count`` new real samples to this reference."""
        key = ("floor", count, seed)
        if key not in self._known:
            self._known[key] = (
                gaussian_floor(self.stats, count, seed=seed)
                if self.features is None
                else reference_floor(self.features, count, seed=seed)
            )
        return self._known[key]

    @property
    def all_rows(self) -> Tensor:
        """The real samples [M, D]. Raises UserError where only statistics are known."""
        if self.features is None:
            raise UserError("needs the real samples' features, not only their statistics.")
        return self.features

    def rows(self, count: int, seed: int) -> Tensor:
        """``count`` of the real samples [count, D]. Raises: as `all_rows`."""
        return random_rows(self.all_rows, count, seed, "real")

    def radii(self, count: int, k: int, seed: int) -> Tensor:
        """Squared distances [count] of `rows` to their k-th nearest other."""
        key = ("radii", count, k, seed)
        if key not in self._known:
            x = self.rows(count, seed).double()
            self._known[key] = squared_radii(x - x.mean(0), k)
        return self._known[key]

    def manifold_floors(self, count: int, k: int, seed: int) -> dict[str, Floor]:
        """Precision and recall of real samples against others, ``count`` of each where there are as
        many, else half."""
        key = ("manifolds", count, k, seed)
        if key not in self._known:
            half = min(count, len(self.all_rows) // 2)
            both = random_rows(self.all_rows, 2 * half, seed, "halves")
            order = torch.randperm(len(both), generator=generator("generation", "halves", seed))
            a, b = both[order[:half]], both[order[half : 2 * half]]
            how = {"baseline": f"{half} real samples against {half} others"}
            try:
                found = manifolds(a, b, k=k)
            except UserError:  # too few
                self._known[key] = {}
            else:
                self._known[key] = {
                    name: (float(getattr(found, name).mean()), how)
                    for name in ("precision", "recall")
                }
        return self._known[key]
