"""Raw latent vectors ↔ what a model sees, as one affine map and back.

    z = (x − m) B / s          x = (z s) Bᵀ + m

    global      m the mean, s one number, B = 1      angles between centered vectors stay (default)
    per_dim     m, s of each dimension; B drops dimensions that never vary (MiniLM has 3 of 384)
    robust      median and interquartile range (0.7413 IQR = σ of a normal), as per_dim
    pca_whiten  B the leading principal axes, s their deviations to the power p: at p = 1 all axes
                are equally strong; between 0 (as they are, turned) and 1, weak axes are raised
                and stay weaker than strong ones

Every kind promises mean |z|² / D' near 1 on the data it was fitted on, which is what noise of unit
variance is compared with; `VectorNormalizer.check` looks, wherever latents are loaded. Statistics
belong to an encoder: they carry its digest, as `latentsmith.autoencoders.normalizer` does for maps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.utils.files import atomic_path

FILE_NAME = "vector_normalizer.safetensors"

NormalizerKind = Literal["global", "per_dim", "robust", "pca_whiten"]

DEAD = 1e-4
"""A dimension that varies less than so many times the mean dimension is dead: dividing by its
deviation would blow rounding up to unit variance."""
RANGE = (0.8, 1.25)
"""Where mean |z|² / D' must lie."""


@schema
class VectorNormalizerConfig:
    """How latent vectors are brought to unit scale."""

    kind: NormalizerKind = "global"
    """global: center, one scale; per_dim: each dimension's mean and deviation; robust: median and
    interquartile range; pca_whiten: principal axes, each with unit variance."""
    energy: Annotated[float, Field(gt=0, le=1)] = 0.99
    """``pca_whiten``: axes kept until they hold this share of the variance; the rest is lost."""
    power: Annotated[float, Field(ge=0, le=1)] = 1.0
    """``pca_whiten``: axes are divided by their deviation to this power. 1: all are equal; 0.5 lets
    a network hear weak axes without making their noise as loud as strong axes."""
    unit: bool = False
    """Bring what `denormalize` gives back to length 1: for encoders of unit vectors."""

    def fit(self, x: Tensor, *, encoder_digest: str = "") -> "VectorNormalizer":
        """Statistics of raw latents [N, ..., D] (training rows only), in float64.

        Raises:
            UserError: fewer than 2 vectors, NaN, or no dimension that varies.
        """
        check_finite(x, "latents")
        rows = x.detach().flatten(0, -2).double().cpu()
        check_count(len(rows), 2, "a normalizer of latents", "vectors")
        mean, basis, scale = _FITS[self.kind](rows, self)
        return VectorNormalizer(mean, basis, scale, self.kind, encoder_digest, self.unit)


def _global(x: Tensor, config: VectorNormalizerConfig) -> tuple[Tensor, Tensor | None, Tensor]:
    mean = x.mean(0)
    scale = (x - mean).square().mean().sqrt()
    _live(scale[None])
    return mean, None, scale.expand(x.shape[1]).clone()


def _per_dim(x: Tensor, config: VectorNormalizerConfig) -> tuple[Tensor, Tensor | None, Tensor]:
    mean = x.mean(0)
    return mean, *_kept((x - mean).square().mean(0).sqrt())


def _robust(x: Tensor, config: VectorNormalizerConfig) -> tuple[Tensor, Tensor | None, Tensor]:
    q = torch.quantile if len(x) * x.shape[1] < 1 << 24 else _column_quantile
    low, median, high = q(x, torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype), dim=0)
    return median, *_kept(0.7413 * (high - low))


def _column_quantile(x: Tensor, at: Tensor, dim: int) -> Tensor:
    """torch.quantile refuses more than 2^24 numbers at once."""
    return torch.stack([column.quantile(at) for column in x.unbind(1)], dim=1)


def _pca(x: Tensor, config: VectorNormalizerConfig) -> tuple[Tensor, Tensor | None, Tensor]:
    mean = x.mean(0)
    centered = x - mean
    values, axes = torch.linalg.eigh(centered.T @ centered / len(x))
    values, axes = values.flip(0).clamp_min(0), axes.flip(1)
    _live(values[:1].sqrt())
    share = values.cumsum(0) / values.sum()
    # rounding may keep the last share below 1
    count = min(
        int((share < config.energy - 1e-12).sum()) + 1, int((values > 1e-12 * values[0]).sum())
    )
    axes = axes[:, :count]
    # the sign of an eigenvector is the library's choice; this one is not
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    deviation = values[:count].sqrt()
    left = (deviation ** (1 - config.power)).square().mean().sqrt()  # of each axis, on average
    return mean, axes * largest.sign(), deviation**config.power * left


def _kept(scale: Tensor) -> tuple[Tensor | None, Tensor]:
    """The axes of the dimensions that live (None: all), and their scales."""
    live = _live(scale)
    if bool(live.all()):
        return None, scale
    return torch.eye(len(scale), dtype=scale.dtype)[:, live], scale[live]


def _live(scale: Tensor) -> Tensor:
    """bool [D]. Raises UserError when none is."""
    live = scale > DEAD * scale.mean()
    if not live.any() or float(scale.max()) < 1e-12:
        raise UserError("all latents are the same vector, so they have no scale to normalize")
    return live


_FITS = {"global": _global, "per_dim": _per_dim, "robust": _robust, "pca_whiten": _pca}


@dataclass(frozen=True)
class VectorNormalizer:
    """See the module's text.

    Attributes:
        mean: float64 [D].
        basis: float64 [D, D'], orthonormal columns; None: all dimensions as they are.
        scale: float64 [D'], positive.
        kind: how it was fitted.
        encoder_digest: weights of the encoder it belongs to.
        unit: whether `denormalize` gives vectors of length 1.
    """

    mean: Tensor
    basis: Tensor | None
    scale: Tensor
    kind: NormalizerKind
    encoder_digest: str = ""
    unit: bool = False

    @property
    def dim(self) -> int:
        """D', the width a model sees."""
        return len(self.scale)

    def normalize(self, x: Tensor) -> Tensor:
        """Raw [..., D] → [..., D'], computed in float32 or what is finer."""
        self._check_width(x, len(self.mean), "raw latents")
        x = x if x.dtype == torch.float64 else x.float()
        z = x - self.mean.to(x)
        z = z if self.basis is None else z @ self.basis.to(x)
        return z / self.scale.to(x)

    def denormalize(self, z: Tensor) -> Tensor:
        """The inverse of `normalize`, as far as ``basis`` spans the space: what it leaves out
        comes back as the mean."""
        self._check_width(z, self.dim, "normalized latents")
        x = z * self.scale.to(z)
        x = (x if self.basis is None else x @ self.basis.to(z).T) + self.mean.to(z)
        return torch.nn.functional.normalize(x, dim=-1) if self.unit else x

    def _check_width(self, x: Tensor, width: int, what: str) -> None:
        if x.shape[-1] != width:
            raise UserError(
                f"{what} of width {x.shape[-1]} given to a normalizer of width {width}: they come "
                "from another encoder or another normalizer"
            )

    def check(self, x: Tensor) -> float:
        """Mean |z|² / D' of raw latents x [..., D].

        Raises:
            UserError: it lies outside [0.8, 1.25], or is not finite.
        """
        power = float(self.normalize(x).double().square().mean())
        if not RANGE[0] <= power <= RANGE[1]:
            raise UserError(
                f"normalized latents have mean |z|²/D = {power:.3g}, expected {RANGE[0]} to "
                f"{RANGE[1]}: the normalizer ({self.kind}) was fitted on other data or another "
                "encoder, or is used twice. With kind=robust, heavy tails do this too: use global"
            )
        return power

    def belongs(self, encoder_digest: str) -> None:
        """Raises UserError unless it was fitted on this encoder's latents."""
        if self.encoder_digest != encoder_digest:
            raise UserError(
                f"the normalizer was fitted on latents of encoder {self.encoder_digest[:12]!r}, "
                f"these are of {encoder_digest[:12]!r}"
            )

    def save(self, folder: Path) -> Path:
        """Write ``vector_normalizer.safetensors`` (float64 survives exactly)."""
        tensors = {"mean": self.mean, "scale": self.scale}
        if self.basis is not None:
            tensors["basis"] = self.basis
        told = {"kind": self.kind, "encoder": self.encoder_digest, "unit": str(int(self.unit))}
        path = Path(folder) / FILE_NAME
        with atomic_path(path) as tmp:
            save_file({name: value.contiguous() for name, value in tensors.items()}, tmp, told)
        return path

    @classmethod
    def load(cls, folder: Path) -> "VectorNormalizer":
        """Read what `save` wrote. Raises UserError when it is missing or damaged."""
        path = Path(folder) / FILE_NAME
        try:
            with safe_open(path, "pt") as file:
                told = file.metadata()
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(
                found["mean"],
                found.get("basis"),
                found["scale"],
                told["kind"],
                told["encoder"],
                told["unit"] == "1",
            )
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise UserError(f"{path} is missing or damaged ({error}): fit it again") from error
