"""A number that says how it was made."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

import latentsmith


def versions() -> dict[str, str]:
    """Versions of the packages a measured number depends on."""
    return {"latentsmith": latentsmith.__version__, "torch": torch.__version__}


@dataclass(frozen=True)
class Stamp:
    """The protocol of a measurement: enough to repeat it."""

    data: str
    """Dataset with split, e.g. ``fashion_mnist/val``."""
    count: int
    """Number of samples (images, or paths where `detail` says so)."""
    space: str = ""
    """Feature space or reference, e.g. ``efficientnet_lite0@112:pooled``."""
    seed: int | None = None
    sampler: str | None = None
    steps: int | None = None
    ema: bool | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    """Anything else that moves the number: epsilon, k, resize, rounding, pooling."""
    versions: dict[str, str] = field(default_factory=versions)


@dataclass(frozen=True)
class Measurement:
    """One metric's value. ``interval`` is a 95 % bootstrap interval (low, high) over *samples*."""

    name: str
    """``<statistic>[_<space>]``, e.g. ``pairdist_pearson``, ``psnr``, ``fd_efficientnet_lite0``."""
    value: float
    stamp: Stamp
    interval: tuple[float, float] | None = None
    higher_is_better: bool | None = None
    """None where neither direction is better (intrinsic dimension)."""
    unit: Literal["", "dB", "%", "px"] | str = ""
    baseline: float | None = None
    """What chance or the trivial method gives (a permutation, a pixel probe)."""
    metric: str = ""
    """The registered metric (`METRICS`) this is a value of; `name` may add a space to it."""
    draws: Tensor | None = field(default=None, repr=False, compare=False)
    """Resampled values [R] behind ``interval``. The draws of two models measured on the same
    samples with the same seed are paired: their difference has its own interval, see
    `latentsmith.metrics.card.joint_difference`. Not part of `to_json`."""

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict."""
        value = asdict(replace(self, draws=None))
        del value["draws"]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Measurement":
        """What `to_json` gave, read back. Numbers may be text ("nan", "inf"): JSON has neither.

        Raises KeyError, TypeError or ValueError for anything else.
        """
        interval, baseline = value["interval"], value["baseline"]
        read = {
            "value": float(value["value"]),
            "stamp": Stamp(**value["stamp"]),
            "interval": None if interval is None else (float(interval[0]), float(interval[1])),
            "baseline": None if baseline is None else float(baseline),
        }
        return cls(**{**value, **read})
