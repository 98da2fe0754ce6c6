"""What belongs together: generator, latents, normalizer and decoder.

A generator is trained on the latents of one encoder under one normalizer, and its samples mean
something to one decoder only. With any other the images are wrong but plausible (washed out,
shifted in colour), which is why the four are bound by digests and checked, never assumed.
"""

from dataclasses import asdict, dataclass
from typing import Any

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.errors import UserError
from latentsmith.stores.base import FeatureStore
from latentsmith.utils.digest import json_digest


def normalizer_digest(normalizer: LatentNormalizer) -> str:
    """Digest of the statistics a generator's latents were scaled by."""
    return json_digest({"mean": normalizer.mean.tolist(), "std": normalizer.std.tolist()})


@dataclass(frozen=True)
class Pairing:
    """Digests of everything a generator's samples depend on besides itself."""

    encoder: str
    """Weights that made the latents."""
    autoencoder: str
    """All weights of the autoencoder: the decoder is among them."""
    normalizer: str
    """Statistics that scaled the latents, see `normalizer_digest`."""
    latents: str
    """Fingerprint of the latents' store."""

    @classmethod
    def of(cls, autoencoder: Autoencoder, store: FeatureStore) -> "Pairing":
        """The pairing of a generator that will be trained on ``store``.

        Raises:
            UserError: the store's latents were made by another encoder, or the autoencoder's
                normalizer is missing or stale.
        """
        normalizer = autoencoder.require_normalizer()
        made_by = store.manifest.encoder.get("weights")
        if made_by != normalizer.encoder_digest:
            raise UserError(
                f"the latents in {store.path} were made by another encoder ({_short(made_by)}) "
                f"than that of {autoencoder.source!r} ({_short(normalizer.encoder_digest)}): cache "
                "them again with this autoencoder, or train on them with the one that made them"
            )
        return cls(
            encoder=normalizer.encoder_digest,
            autoencoder=autoencoder.digest(),
            normalizer=normalizer_digest(normalizer),
            latents=store.manifest.fingerprint(),
        )

    def check(self, autoencoder: Autoencoder, *, where: str = "the generator") -> None:
        """Refuse an autoencoder that the generator was not trained with.

        Raises:
            UserError: its weights or its normalizer differ, naming both sides.
        """
        given = {
            "autoencoder": autoencoder.digest(),
            "normalizer": normalizer_digest(autoencoder.require_normalizer()),
        }
        wrong = [
            f"its {name} is {_short(value)}, {where} was trained with {_short(getattr(self, name))}"
            for name, value in given.items()
            if value != getattr(self, name)
        ]
        if wrong:
            raise UserError(
                f"{autoencoder.source!r} is not the autoencoder of {where}: {'; '.join(wrong)}. "
                "Decoding with another gives plausible but wrong images: give the one it was "
                "trained with"
            )

    def check_normalizer(self, normalizer: LatentNormalizer) -> None:
        """Refuse another normalizer than the latents were scaled by. Raises UserError."""
        given = normalizer_digest(normalizer)
        if given != self.normalizer:
            raise UserError(
                f"the generator was trained on latents scaled by normalizer "
                f"{_short(self.normalizer)}, and this one is {_short(given)}: its samples would "
                "have wrong colours and contrast. Give the one saved with the generator"
            )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return asdict(self)


def _short(digest: object) -> str:
    return str(digest)[:12] if digest else "unknown"
