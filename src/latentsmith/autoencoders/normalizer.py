"""Raw latents ↔ what a generator sees. One pair of functions, used everywhere.

A latent's scale belongs to the encoder that made it: 0.18215 is Stable Diffusion's, and stale as
soon as the encoder is trained. So the statistics are measured, carry the digest of the encoder
they were measured on, and are refused with any other.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.utils.files import write_json

FILE_NAME = "latent_normalizer.json"

Latent = Literal["mode", "sample"]
"""Which latent a consumer sees: the posterior's mean, or a draw from it."""


class LatentMoments:
    """Per-channel mean and variance of latents [N, C, …], gathered in float64 and mergeable.

    Uses the pairwise update of Chan, Golub & LeVeque (1983): no catastrophic cancellation, and
    the parts of several processes merge into exactly the whole's statistics.
    """

    def __init__(self) -> None:
        self.count = 0
        """Elements per channel seen so far (samples x positions)."""
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.m2 = torch.zeros(0, dtype=torch.float64)

    def update(self, latents: Tensor, variance: Tensor | None = None) -> "LatentMoments":
        """Add a batch [N, C, …].

        Args:
            latents: posterior means.
            variance: posterior variances, same shape, where the consumer sees *samples*: by the
                law of total variance they add to the spread, and no draw is needed.

        Raises:
            UserError: latents hold NaN or infinity.
        """
        channels = latents.detach().double().transpose(0, 1).flatten(1).cpu()  # [C, n]
        if not channels.isfinite().all():
            raise UserError(
                "cannot measure latent statistics: the encoder gave NaN or infinite latents"
            )
        part = LatentMoments()
        part.count = channels.shape[1]
        part.mean = channels.mean(1)
        part.m2 = (channels - part.mean[:, None]).square().sum(1)
        if variance is not None:
            part.m2 += variance.detach().double().transpose(0, 1).flatten(1).sum(1).cpu()
        return self.merge(part)

    def merge(self, other: "LatentMoments") -> "LatentMoments":
        """Fold another process's moments into these."""
        if other.count == 0:
            return self
        if self.count == 0:
            self.count, self.mean, self.m2 = other.count, other.mean.clone(), other.m2.clone()
            return self
        total = self.count + other.count
        delta = other.mean - self.mean
        self.m2 = self.m2 + other.m2 + delta.square() * (self.count * other.count / total)
        self.mean = self.mean + delta * (other.count / total)
        self.count = total
        return self

    def std(self) -> Tensor:
        """Per-channel standard deviation [C] (divided by n, float64)."""
        return (self.m2 / self.count).sqrt()


@dataclass(frozen=True)
class LatentNormalizer:
    """Per-channel ``(z - mean) / std`` and back.

    Attributes:
        mean: float64 [C].
        std: float64 [C], positive.
        encoder_digest: weights the statistics were measured on.
        latent: whether they describe the posterior's mode or its samples.
        count: elements per channel they were measured from.
        stated: taken from a published model's config, not measured: what its generator was trained
            with, whatever the scale of other data.
    """

    mean: Tensor
    std: Tensor
    encoder_digest: str
    latent: Latent = "mode"
    count: int = 0
    stated: bool = False

    def __post_init__(self) -> None:
        if not (self.std > 0).all():
            dead = (self.std <= 0).nonzero().flatten().tolist()
            raise UserError(
                f"latent channel(s) {dead} never change (standard deviation 0), so they cannot be "
                "normalized: the encoder has collapsed there, or one constant image was measured"
            )

    @classmethod
    def identity(cls, channels: int) -> "LatentNormalizer":
        """One that changes nothing and belongs to no encoder: for counting, without data."""
        one = torch.ones(channels, dtype=torch.float64)
        return cls(one * 0, one, "none")

    @classmethod
    def from_moments(
        cls,
        moments: LatentMoments,
        *,
        encoder_digest: str,
        latent: Latent = "mode",
        floor: float = 0.0,
    ) -> "LatentNormalizer":
        """Statistics gathered with `LatentMoments`.

        Args:
            floor: smallest deviation of a channel, over the mean of all channels'. Channels of a
                vision encoder may be silent on all images measured and loud on the next.

        Raises:
            UserError: it saw nothing, or a channel's deviation is 0.
        """
        if moments.count == 0:
            raise UserError("cannot measure latent statistics: no images were given")
        std = moments.std()
        std = std.clamp_min(floor * float(std.mean()))
        return cls(moments.mean, std, encoder_digest, latent, moments.count)

    @classmethod
    def measure(
        cls, latents: Iterable[Tensor], *, encoder_digest: str, latent: Latent = "mode"
    ) -> "LatentNormalizer":
        """From batches of raw latents [N, C, …]."""
        moments = LatentMoments()
        for batch in latents:
            moments.update(batch)
        return cls.from_moments(moments, encoder_digest=encoder_digest, latent=latent)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, encoder_digest: str, latent: Latent = "mode"
    ) -> "LatentNormalizer":
        """What an ``AutoencoderKL``'s config says, in both ways diffusers reads it (the inverse of
        `diffusers_config`): ``latents_mean`` and ``latents_std`` where they are given, else
        ``shift_factor`` and the ``scaling_factor`` alone (Stable Diffusion's 0.18215).

        Raises:
            UserError: it gives no scale.
        """
        scale = config.get("scaling_factor")
        if not scale:
            raise UserError(
                "the autoencoder's config has no scaling_factor, so the latents its generator was "
                "trained on cannot be made: measure them instead (measure_normalizer)"
            )
        wide, channels = torch.float64, int(config["latent_channels"])
        if config.get("latents_std") is not None:
            mean = torch.tensor(config["latents_mean"], dtype=wide)
            std = torch.tensor(config["latents_std"], dtype=wide) / scale
        else:
            mean = torch.full((channels,), float(config.get("shift_factor") or 0.0), dtype=wide)
            std = torch.full((channels,), 1 / float(scale), dtype=wide)
        return cls(mean, std, encoder_digest, latent, stated=True)

    def _broadcast(self, stat: Tensor, latents: Tensor) -> Tensor:
        if latents.shape[1] != stat.shape[0]:
            raise UserError(
                f"latents have {latents.shape[1]} channels, their normalizer has {stat.shape[0]}: "
                "they come from different autoencoders"
            )
        stat = stat.to(device=latents.device, dtype=latents.dtype)
        return stat.view(1, -1, *[1] * (latents.dim() - 2))

    def normalize(self, latents: Tensor) -> Tensor:
        """Raw [B, C, …] → zero mean, unit standard deviation per channel."""
        return (latents - self._broadcast(self.mean, latents)) / self._broadcast(self.std, latents)

    def denormalize(self, latents: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return latents * self._broadcast(self.std, latents) + self._broadcast(self.mean, latents)

    @property
    def scaling_factor(self) -> float:
        """1 / standard deviation over all elements: the single number of Stable Diffusion."""
        second = (self.std.square() + self.mean.square()).mean()
        return float((second - self.mean.mean().square()).rsqrt())

    def diffusers_config(self) -> dict[str, Any]:
        """Entries for ``AutoencoderKL``'s config, readable both ways diffusers reads them.

        Pipelines that know only one number decode ``x / scaling_factor``; those that know
        per-channel ones decode ``x * latents_std / scaling_factor + latents_mean``. Writing
        ``latents_std = std * scaling_factor`` makes the second exact and leaves the first right
        on average; the plain ``std`` would be scaled twice.
        """
        scale = self.scaling_factor
        return {
            "scaling_factor": scale,
            "latents_mean": self.mean.tolist(),
            "latents_std": (self.std * scale).tolist(),
        }

    def save(self, folder: Path) -> Path:
        """Write ``latent_normalizer.json`` (float64 survives exactly)."""
        path = Path(folder) / FILE_NAME
        value = {
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "encoder_digest": self.encoder_digest,
            "latent": self.latent,
            "count": self.count,
            "stated": self.stated,
        }
        write_json(path, value)
        return path

    @classmethod
    def load(cls, folder: Path) -> "LatentNormalizer":
        """Read what `save` wrote. Raises UserError when it is missing or unreadable."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise UserError(
                f"{folder} has no {FILE_NAME}: save the autoencoder with latentsmith, or measure "
                "its latents first"
            )
        try:
            value = json.loads(path.read_text())
            return cls(
                torch.tensor(value["mean"], dtype=torch.float64),
                torch.tensor(value["std"], dtype=torch.float64),
                value["encoder_digest"],
                value["latent"],
                value["count"],
                value.get("stated", False),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): measure the latents again") from error


def check_scale(latents: Tensor, *, tolerance: float = 0.2) -> float:
    """Refuse to train a generator on latents whose scale is wrong.

    Args:
        latents: a batch [B, C, …] of *normalized* latents, as the generator will see them.
        tolerance: largest allowed distance of the standard deviation from 1. A few hundred
            images give it to about 0.05; a forgotten or stale factor is off by 1.2 to 6.

    Returns:
        The measured standard deviation over all elements.

    Raises:
        UserError: it is further than ``tolerance`` from 1, or not finite.
    """
    std = float(latents.detach().double().std(unbiased=False))
    if not abs(std - 1) <= tolerance:
        raise UserError(
            f"normalized latents have standard deviation {std:.3g}, and a generator expects 1 "
            f"(± {tolerance:g}): their statistics are stale or were applied twice. Measure the "
            "latent normalizer again on this autoencoder and this data"
        )
    return std
