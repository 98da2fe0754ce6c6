"""The list of metrics. Adding a metric is adding a file with a decorated plain function.

``@metric(...)`` leaves the function as it is and records how to use it: what it takes, which way
is better, how its interval and its chance level are made. ``latentsmith list``, the latent card
and the contract tests run over `METRICS`.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from torch import Tensor

from latentsmith import plugins
from latentsmith.errors import UserError, nearest
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.metrics.intervals import bootstrap_mean, percentiles
from latentsmith.metrics.points import Points

Input = Literal[
    "latents", "reference", "labels", "maps", "images", "recon", "features", "features_ref",
    "train", "train_labels", "test", "test_labels", "encode", "decode", "extract", "distance",
    "tokens", "tokens_ref", "predicted_labels", "pixel_labels", "found_scenes", "asked_scenes",
    "edits", "field", "field_ref", "known", "field_draws", "ids", "ids_ref", "masked",
    "nll", "nll_ref",
]  # fmt: skip
"""What a metric may ask for.

latents [N, ...] · reference [N, D] · labels int [N] · maps: spatial latents [N, C, H, W] ·
images, recon [N, C, H, W] in [0, 1] · features, features_ref [N, D] (generated, real) ·
train, test [N, D] with their labels · encode, decode: callables · extract: images → features ·
distance: (images, images) → [N] · tokens, tokens_ref [N, T, D] (a network's, its teacher's) ·
predicted_labels, pixel_labels int [N, H, W] (found, true) · found_scenes, asked_scenes
int [N, 1 + K, 4], edits int [N, 9, 4] (`latentsmith.metrics.shapes_judge.tables`) · field,
field_ref: values of fields at the same lattice points [N, C, …] in [-1, 1] (found, true or found
otherwise) with 1 to 3 axes · known bool [N, L]: which of their L points a model was given ·
field_draws [N, K, C, …]: K draws of each field ·
ids, ids_ref int64 [N, L]: token rows of texts (written, true; `latentsmith.data.text.tokens`) ·
masked bool [N, L]: which tokens were hidden · nll, nll_ref [N, …]: nats per token of texts given
their own latent and another's.
"""

Replicates = Callable[..., Any]
"""(*inputs, value, replicates, seed, **options) → Tensor [R] of resampled values."""
Baseline = Callable[..., tuple[float, dict[str, Any]]]
"""(*inputs, seed, **options) → (what chance gives, how it was made)."""
Chance = tuple[float | None, dict[str, Any]]
F = TypeVar("F", bound=Callable[..., float])


@dataclass(frozen=True)
class Metric:
    """One registered metric."""

    name: str
    help: str
    inputs: tuple[Input, ...]
    compute: Callable[..., float]
    higher_is_better: bool | None
    unit: str = ""
    best: float | None = None
    """Value for a perfect match, where there is one."""
    per_sample: Callable[..., Any] | None = None
    replicates: Replicates | None = None
    baseline: Baseline | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Keyword-only options of the function with their defaults; those used are stamped."""
        parameters = inspect.signature(self.compute).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def __call__(self, *inputs: Any, **options: Any) -> float:
        """The number."""
        return self.compute(*inputs, **options)

    def measure(
        self,
        *inputs: Any,
        stamp: Stamp,
        suffix: str = "",
        resamples: int = 200,
        seed: int = 0,
        baseline: float | None = None,
        **options: Any,
    ) -> Measurement:
        """The number with its 95 % interval, chance level and stamp.

        Args:
            inputs: as `inputs` lists them.
            suffix: appended to the name, for a metric measured against several spaces.
            resamples: bootstrap replicates; 0 leaves interval and baseline out.
            baseline: overrides the metric's own chance level.
        """
        chosen = {**self.options, **options}
        values = tuple(map(_shared, self.inputs, inputs))
        if self.per_sample is not None:
            return self.from_samples(
                self.per_sample(*values, **chosen),
                stamp=replace(stamp, detail={**stamp.detail, **chosen}),
                suffix=suffix,
                resamples=resamples,
                seed=seed,
                baseline=self._chance(baseline, resamples, values, chosen, seed),
            )
        value, draws = self.compute(*values, **chosen), None
        if resamples and self.replicates is not None:
            draws = self.replicates(*values, value=value, replicates=resamples, seed=seed, **chosen)
        return self.from_replicates(
            value,
            draws,
            stamp=replace(stamp, detail={**stamp.detail, **chosen}),
            suffix=suffix,
            seed=seed,
            baseline=self._chance(baseline, resamples, values, chosen, seed),
        )

    def _chance(
        self, given: float | None, resamples: int, values: tuple, chosen: dict, seed: int
    ) -> Chance:
        if given is not None or not resamples or self.baseline is None:
            return given, {}
        return self.baseline(*values, seed=seed, **chosen)

    def from_samples(
        self,
        values: Tensor,
        *,
        stamp: Stamp,
        suffix: str = "",
        resamples: int = 200,
        seed: int = 0,
        baseline: Chance = (None, {}),
    ) -> Measurement:
        """A Measurement from per-sample values [N] already at hand; their mean is the number."""
        draws = bootstrap_mean(values, resamples, seed) if resamples and len(values) > 1 else None
        return self.from_replicates(
            float(values.double().mean()),
            draws,
            stamp=stamp,
            suffix=suffix,
            seed=seed,
            baseline=baseline,
        )

    def from_replicates(
        self,
        value: float,
        draws: Tensor | None,
        *,
        stamp: Stamp,
        suffix: str = "",
        seed: int = 0,
        baseline: Chance = (None, {}),
    ) -> Measurement:
        """A Measurement from a value and its resampled values [R] (None = no interval)."""
        chance, made = baseline
        how = {} if draws is None else {"resamples": len(draws)}
        return Measurement(
            name=self.name + (f"_{suffix}" if suffix else ""),
            metric=self.name,
            value=value,
            stamp=replace(stamp, seed=seed, detail={**stamp.detail, **how, **made}),
            interval=None if draws is None else percentiles(draws),
            higher_is_better=self.higher_is_better,
            unit=self.unit,
            baseline=chance,
            draws=None if draws is None else draws.detach().double().cpu(),
        )


def _shared(name: Input, value: Any) -> Any:
    """Geometry inputs as `Points`, so that value, interval and baseline share their distances."""
    shares = name in ("latents", "reference") and isinstance(value, Tensor)
    return Points(value, name) if shares else value


class MetricList:
    """All metrics by name, loaded on first use (as `latentsmith.registry.Registry`)."""

    family = "metric"

    def __init__(self) -> None:
        self._entries: dict[str, Metric] = {}
        self._loaded = False

    def add(self, entry: Metric) -> None:
        """Register ``entry``; a name can be taken once (reloading its module is fine)."""
        known = self._entries.get(entry.name)
        places = [(f.__module__, f.__qualname__) for f in (e.compute for e in (known, entry) if e)]
        if len(set(places)) > 1:
            both = " and ".join(module for module, _ in places)
            raise ValueError(f"metric {entry.name!r} is registered twice: by {both}")
        self._entries[entry.name] = entry

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module("latentsmith.metrics")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"latentsmith.metrics.{module.name}")
        plugins.load()

    def __iter__(self) -> Iterator[Metric]:
        self._load()
        return iter(sorted(self._entries.values(), key=lambda m: m.name))

    def names(self) -> list[str]:
        """All names, sorted."""
        return [entry.name for entry in self]

    def __getitem__(self, name: str) -> Metric:
        """Raises UserError naming the nearest known names."""
        self._load()
        if name not in self._entries:
            raise UserError(f"no metric {name!r}. {nearest(name, self._entries)}")
        return self._entries[name]

    def taking(self, *inputs: Input) -> list[Metric]:
        """The metrics whose inputs are exactly these."""
        return [m for m in self if m.inputs == inputs]


METRICS = MetricList()


def metric(
    name: str,
    *,
    help: str,
    inputs: tuple[Input, ...],
    higher_is_better: bool | None,
    unit: str = "",
    best: float | None = None,
    per_sample: Callable[..., Any] | None = None,
    replicates: Replicates | None = None,
    baseline: Baseline | None = None,
) -> Callable[[F], F]:
    """Function decorator: put a plain function into `METRICS` and return it unchanged.

    Args:
        name: as it is printed; the statistic, not the space it is measured in.
        help: the line ``latentsmith list`` prints.
        inputs: positional arguments, from `Input`.
        best: value of a perfect match (the contract tests check it).
        per_sample: same arguments → [N] values whose mean is the metric (gives the interval).
        replicates: another way to the interval, see `Replicates`.
        baseline: the chance level, see `Baseline`.
    """

    def add(compute: F) -> F:
        METRICS.add(
            Metric(
                name=name,
                help=help,
                inputs=inputs,
                compute=compute,
                higher_is_better=higher_is_better,
                unit=unit,
                best=best,
                per_sample=per_sample,
                replicates=replicates,
                baseline=baseline,
            )
        )
        return compute

    return add


__all__ = ["METRICS", "Metric", "MetricList", "metric"]
