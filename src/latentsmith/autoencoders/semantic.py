"""S-VAE and PS-VAE: an autoencoder around a representation encoder.

    features f = E(images)                  frozen (S-VAE) or trained (PS-VAE)     [B, N, d]
    posterior  = projector(f)               z channels at each token               [B, z, h, w]
    f̂ = reader(z)   x̂ = pixel decoder(z)    both back from the same latent

Source: spec/3-ps-vae.md. The encoder takes images of any size in [0, 1] and normalizes them its own
way; pixels are judged in [0, 1] (LPIPS scales for itself): nothing is fed another's normalization.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentsmith.autoencoders.base import Autoencoder, Posterior
from latentsmith.autoencoders.normalizer import LatentMoments, LatentNormalizer
from latentsmith.autoencoders.pixel_decoder import PixelDecoderConfig
from latentsmith.autoencoders.projectors import PROJECTORS, ProjectorConfig
from latentsmith.autoencoders.projectors.base import moments_of
from latentsmith.config.schema import schema
from latentsmith.encoders.base import ENCODERS, Encoder, EncoderConfig
from latentsmith.errors import UserError
from latentsmith.registry import OneOf
from latentsmith.utils.digest import state_digest
from latentsmith.utils.files import atomic_folder, write_json

log = logging.getLogger(__name__)

CLASS = "LatentsmithSemanticAutoencoder"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
QUIETEST = 0.05
"""A feature channel that hardly ever speaks is not blown up beyond this share of the mean
deviation."""


@schema
class SemanticAutoencoderConfig:
    """A representation encoder and what lies around it."""

    encoder: Annotated[EncoderConfig, OneOf(ENCODERS)]
    """The vision encoder whose tokens become latents: one with tokens."""
    projector: Annotated[ProjectorConfig, OneOf(PROJECTORS)]
    """From features to the latent's moments, and back."""
    latent_channels: Annotated[int, Field(gt=0)] | None = 96
    """Channels z of the latent. null: as many as the features have (projector=identity)."""
    decoder: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    """From the latent to pixels."""
    channels: Annotated[int, Field(gt=0)] = 3
    """Image channels of the pixel decoder."""
    init_seed: int = 0
    """Seed of the initial weights of projector and decoders."""

    def __post_init__(self) -> None:
        if not self.encoder.gives_tokens:
            able = ", ".join(entry.name for entry in ENCODERS if entry.config.gives_tokens)
            raise ValueError(f"encoder={self.encoder.kind} has no patch tokens: choose {able}")

    def build(self) -> "SemanticAutoencoder":
        """Around the encoder as it was published, projector and decoders untrained. Raises
        UserError when the encoder's weights are not at hand."""
        return SemanticAutoencoder(self, self.encoder.build())


@dataclass(frozen=True)
class SemanticPosterior(Posterior):
    """With the standardized features it was projected from, [B, N, d]."""

    features: Tensor


class SemanticAutoencoder(Autoencoder):
    """See the module's text.

    Attributes:
        encoder: frozen unless `train_encoder` was called.
        feature_mean, feature_std: [d], what features are standardized by before they are projected
            or compared: mean 0 and deviation 1 where `measure_features` was not called.
    """

    kind = "semantic-autoencoder"
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: SemanticAutoencoderConfig, encoder: Encoder):
        super().__init__(f"an autoencoder around {encoder.name}")
        assert encoder.grid is not None  # gives_tokens
        self.config, self.encoder, self.grid = config, encoder, encoder.grid
        # features as they are: standardized already, and a second time would undo QUIETEST
        self.quietest = 0.0 if config.projector.variational else 1.0
        width = _token_width(encoder)
        self._latent_channels = config.latent_channels or width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.init_seed)
            self.projector, self.reader = config.projector.build(
                width, self._latent_channels, self.grid
            )
            self.pixels = config.decoder.build(self._latent_channels, config.channels)
        self.register_buffer("feature_mean", torch.zeros(width))
        self.register_buffer("feature_std", torch.ones(width))

    # Shapes ---------------------------------------------------------------------------------------

    @property
    def channels(self) -> int:
        """Image channels."""
        return self.config.channels

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self._latent_channels

    @property
    def factor(self) -> int:
        """Pixels of a decoded image per latent position, along each side."""
        return self.config.decoder.factor

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, h, w). The encoder resizes images, so h and w are its grid; what is decoded must
        have the resolution of what was encoded, or the two cannot be compared.

        Raises:
            UserError: another resolution than that of decoded images.
        """
        sides = [side * self.factor for side in self.grid]
        if sides != [resolution, resolution]:
            raise UserError(
                f"resolution {resolution} does not suit this autoencoder: the encoder's grid of "
                f"{self.grid[0]} x {self.grid[1]} tokens decodes to {sides[0]} x {sides[1]} pixels "
                f"({self.config.decoder.scale}). Set transform.resolution={sides[0]}, the "
                "encoder's resolution, or decoder.levels"
            )
        return (self.latent_channels, *self.grid)

    # Encoding and decoding ------------------------------------------------------------------------

    def features(self, images: Tensor) -> Tensor:
        """[B, channels, H, W] in [0, 1] → standardized features [B, N, d] float32, with a graph
        where the encoder trains."""
        return self.standardized(self.encoder, images)

    def standardized(self, encoder: Encoder, images: Tensor) -> Tensor:
        """The features another encoder of the same kind (the frozen original) sees, in the same
        units."""
        tokens = encoder.compute(images).tokens
        assert tokens is not None
        return (tokens - self.feature_mean) / self.feature_std

    def project(self, features: Tensor) -> SemanticPosterior:
        """Standardized features [B, N, d] → posterior over raw latents [B, C, h, w]."""
        mean, logvar = moments_of(self.config.projector, self.projector(features))
        return SemanticPosterior(self._as_map(mean), self._as_map(logvar), features)

    def encode(self, images: Tensor) -> SemanticPosterior:
        """See `Autoencoder.encode`."""
        self.check_images(images)
        return self.project(self.features(images))

    def decode(self, latents: Tensor) -> Tensor:
        """See `Autoencoder.decode`."""
        return (self.pixels(latents).float() + 1) / 2

    def decode_features(self, latents: Tensor) -> Tensor:
        """Raw latents [B, C, h, w] → standardized features [B, N, d] float32."""
        return self.reader(latents.flatten(2).mT).float()

    def _as_map(self, tokens: Tensor) -> Tensor:
        """[B, N, C] → [B, C, h, w], contiguous."""
        return tokens.mT.unflatten(2, self.grid).contiguous()

    # Training -------------------------------------------------------------------------------------

    def train_encoder(self, names: str = "") -> list[nn.Parameter]:
        """Let the encoder's weights train, those whose names hold ``names`` (a regular
        expression); returns them. See `Encoder.unfreeze`."""
        return self.encoder.unfreeze(names)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Of the projector, and those of the encoder that train."""
        trained = [p for p in self.encoder.parameters() if p.requires_grad]
        return [*self.projector.parameters(), *trained]

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Of reader and pixel decoder."""
        return [*self.reader.parameters(), *self.pixels.parameters()]

    def last_decoder_weight(self) -> nn.Parameter:
        """See `Autoencoder.last_decoder_weight`."""
        weight: Any = self.pixels.conv_out.weight  # torch types a layer's as a Tensor
        return weight

    def last_encoder_weight(self) -> nn.Parameter:
        """See `Autoencoder.last_encoder_weight`.

        Raises:
            UserError: nothing lies between features and latent."""
        linear = [m for m in self.projector.modules() if isinstance(m, nn.Linear)]
        if not linear:
            raise UserError(
                "projector=identity has no weights, so no loss of latents can be balanced there"
            )
        weight: Any = linear[-1].weight
        return weight

    @torch.no_grad()
    def measure_features(self, batches: Iterable[Tensor]) -> None:
        """Take mean and deviation of each feature channel from images [B, C, H, W] in [0, 1], so
        that an error of 1 is as much in every channel and with every encoder."""
        moments = LatentMoments()
        for images in batches:
            tokens = self.encoder(images.to(self.feature_mean.device)).tokens
            assert tokens is not None
            moments.update(tokens.mT)  # [B, d, N]
        if not moments.count:
            raise UserError("cannot measure features: no images were given")
        std = moments.std()
        self.feature_mean.copy_(moments.mean)
        self.feature_std.copy_(std.clamp_min(QUIETEST * float(std.mean())))

    # Identity and files ---------------------------------------------------------------------------

    def digest(self) -> str:
        """Hex digest of all weights."""
        return state_digest(self.state_dict())

    def encoder_digest(self) -> str:
        """Hex digest of the weights that decide the latents."""
        own = ("encoder.", "projector.", "feature_")
        return state_digest({k: v for k, v in self.state_dict().items() if k.startswith(own)})

    def save_pretrained(self, folder: Path | str) -> Path:
        """Write ``config.json``, ``model.safetensors`` (the encoder's weights among them) and the
        normalizer, all or nothing.

        Raises:
            UserError: the normalizer is missing or stale.
        """
        normalizer, folder = self.require_normalizer(), Path(folder)
        about = {
            "_class_name": CLASS,
            "settings": asdict(self.config),
            "architecture": self.encoder.architecture(),
        }
        with atomic_folder(folder) as tmp:
            write_json(tmp / CONFIG, about)
            state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
            save_file(state, tmp / WEIGHTS)
            normalizer.save(tmp)
        log.info("saved the autoencoder to %s", folder)
        return folder


def load_semantic(folder: Path | str) -> SemanticAutoencoder:
    """What `SemanticAutoencoder.save_pretrained` wrote, all of it from the folder, frozen. The
    encoder's source is not read.

    Raises:
        UserError: nothing there, damaged, or settings of another version.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / CONFIG).read_text())
        settings, architecture = about["settings"], about["architecture"]
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{folder} holds no readable semantic autoencoder ({error}): save or copy it anew"
        ) from error
    try:
        config = TypeAdapter(SemanticAutoencoderConfig).validate_python(settings)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "it"
        raise UserError(
            f"settings in {folder / CONFIG} do not fit this version of latentsmith: {where}: "
            f"{error.errors()[0]['msg']}"
        ) from error
    autoencoder = SemanticAutoencoder(config, config.encoder.empty(architecture))
    try:
        autoencoder.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{folder / WEIGHTS} does not fit {CONFIG}: {first}") from error
    autoencoder.source = str(folder)
    autoencoder.normalizer = LatentNormalizer.load(folder)
    autoencoder.require_normalizer()
    return autoencoder.requires_grad_(False).eval()


def _token_width(encoder: Encoder) -> int:
    """d of the encoder's tokens: not its `dim` where vectors are projected (CLIP)."""
    device = next(encoder.parameters()).device
    tokens = encoder(torch.full((1, 3, 32, 32), 0.5, device=device)).tokens
    assert tokens is not None
    return tokens.shape[2]
