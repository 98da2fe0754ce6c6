"""An autoencoder of fields: from values at scattered points to latent tokens, to values anywhere.

    encode_points(coordinates, values)  →  tokens [B, z, h, w]
    decode_at(tokens, coordinates)      →  values

It is an autoencoder of images, too (`Autoencoder`): an image is its ``lattice``² area means, all of
them given, and is decoded on the grid of its own resolution. So caches, generators, samplers and
cards of image latents work with it as they are.

Tokens lie on a grid of anchors that covers the domain; one token is a semantic vector of the whole.
Values are in [-1, 1] where they are pixels. Source: spec/4-field-autoencoder.md.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.autoencoders.base import Autoencoder, Posterior
from latentsmith.autoencoders.field.decoders import DECODERS, DecoderConfig, FieldDecoder
from latentsmith.autoencoders.field.decoders.base import DecoderShape
from latentsmith.autoencoders.field.encoder import FieldEncoder
from latentsmith.autoencoders.field.features import FourierConfig
from latentsmith.autoencoders.field.planes import plane_numbers
from latentsmith.autoencoders.field.weights import start
from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.backbones.mixers import MIXERS, MixerConfig, Points
from latentsmith.config.schema import schema
from latentsmith.data.fields.base import check_points
from latentsmith.data.fields.coordinates import grid
from latentsmith.errors import UserError
from latentsmith.registry import OneOf
from latentsmith.utils.digest import state_digest
from latentsmith.utils.files import atomic_folder, write_json

log = logging.getLogger(__name__)

CLASS = "LatentsmithFieldAutoencoder"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
EXPORTED = "diffusion_pytorch_model.safetensors"
"""What an export, which is diffusers' too, calls `WEIGHTS`."""
CERTAIN = -20.0
"""Log-variance of a code: it has none."""


@schema
class LatentConfig:
    """What a field is squeezed through."""

    tokens: Annotated[int, Field(gt=0)] = 64
    """Latent tokens: 1 (a semantic vector), or a square (of two dimensions), or a cube (of
    three)."""
    channels: Annotated[int, Field(gt=0)] = 32
    """Numbers of a token."""
    planes: bool = True
    """The first numbers of a token are a plane, read off the surface that kriging lays through
    the values, and decoding starts from the blend of planes: a network begins where interpolation
    ends. false: all is learned."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Noise on the tokens while training, as a share of their deviation: smooths the space that
    is interpolated and generated in."""


@schema
class FieldAutoencoderConfig:
    """Encoder, latent tokens, decoder."""

    dims: Annotated[int, Field(ge=1, le=3)] = 2
    """Dimensions of a coordinate: images have 2."""
    channels: Annotated[int, Field(gt=0)] = 3
    """Numbers of a value: colors have 3."""
    resolution: Annotated[int, Field(gt=0)] = 96
    """Side that images are decoded to when nothing else is asked for."""
    lattice: Annotated[int, Field(gt=0)] = 32
    """Side of the lattice whose points are samples: images are encoded from all of it."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    """Tokens."""
    width: Annotated[int, Field(gt=0)] = 128
    """Channels of encoder and decoder."""
    depth: Annotated[int, Field(ge=0)] = 4
    """Blocks of the encoder, over the points."""
    convolutions: Annotated[int, Field(ge=0)] = 0
    """Blocks of convolutions at the encoder's end, over the grid of tokens: cheap, and they learn
    from few fields. A single token has no grid, so none of them."""
    heads: Annotated[int, Field(gt=0)] = 4
    """Attention heads where points become tokens: divides the width."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 2.0
    """Hidden channels of the encoder's MLPs, as a multiple of the width."""
    mixer: Annotated[MixerConfig, OneOf(MIXERS)]
    """How points, and tokens, see each other: ssd, s6 or attention."""
    decoder: Annotated[DecoderConfig, OneOf(DECODERS)]
    """How a query sees the tokens: cross, scan, pointwise or joint."""
    fourier: FourierConfig = field(default_factory=FourierConfig)
    """Features of coordinates."""
    init_seed: int = 0
    """Seed of the initial weights."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide the width {self.width}")
        tokens, side = self.latent.tokens, self.side
        if side**self.dims != tokens:
            near = [s**self.dims for s in (max(side - 1, 1), side, side + 1)]
            raise ValueError(
                f"latent.tokens is {tokens}, and tokens lie on a grid of {self.dims} dimension(s): "
                f"set one of {', '.join(map(str, sorted(set(near))))}, or 1 for a single vector"
            )
        if self.decoder.kind == "local" and tokens == 1:
            raise ValueError(
                "field.decoder=local hears from the tokens nearest to a query, and there is one: "
                "set latent.tokens above 1, or decoder=pointwise"
            )
        planes = plane_numbers(self.channels, self.dims)
        if self.latent.planes and self.latent.channels <= planes:
            raise ValueError(
                f"latent.channels is {self.latent.channels}, and {planes} of a token's numbers are "
                "a plane: set more, or latent.planes=false"
            )
        if self.resolution % self.lattice:
            raise ValueError(
                f"resolution {self.resolution} is no multiple of lattice {self.lattice}: area "
                "means need whole pixels"
            )

    @property
    def side(self) -> int:
        """Tokens along each dimension."""
        return round(self.latent.tokens ** (1 / self.dims))

    def shape(
        self,
        *,
        tokens: int,
        mixer: MixerConfig | None = None,
        planes: bool = False,
        denoises: bool = False,
        bottleneck: int | None = None,
    ) -> DecoderShape:
        """What a decoder of such fields is built for; ``tokens``: numbers of each; ``mixer``:
        another than the encoder's."""
        return DecoderShape(
            features=self.fourier.build(self.dims),
            mixer=mixer or self.mixer,
            tokens=tokens,
            channels=self.channels,
            width=self.width,
            spacing=2 / self.side,
            planes=planes,
            denoises=denoises,
            bottleneck=bottleneck,
        )

    def build(self) -> "FieldAutoencoder":
        """Untrained."""
        return FieldAutoencoder(self)


class FieldAutoencoder(Autoencoder):
    """See the module's text."""

    kind = "field-autoencoder"

    def __init__(self, config: FieldAutoencoderConfig):
        super().__init__("a field autoencoder")
        self.config = config
        self.encoder = FieldEncoder(
            config.fourier.build(config.dims),
            config.mixer,
            channels=config.channels,
            latent=config.latent.channels,
            planes=config.latent.planes,
            side=config.side,
            convolutions=config.convolutions,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
        )
        self.decoder: FieldDecoder = config.decoder.build(
            config.shape(tokens=config.latent.channels, planes=config.latent.planes)
        )
        start(self, config.init_seed)

    # Fields ---------------------------------------------------------------------------------------

    def anchors(self) -> Points:
        """Where the tokens lie, [1, K, d], in raster order."""
        device = self.encoder.out.weight.device
        return Points(grid(self.config.side, self.config.dims, device)[None])

    def encode_points(self, coordinates: Tensor, values: Tensor) -> Tensor:
        """Values [B, N, C] at coordinates [B, N, d] in [-1, 1] → raw tokens [B, z, h, w].

        Raises:
            UserError: shapes or ranges that are no such points, or of another kind of field.
        """
        check_points(coordinates, values)
        wanted = self.config.dims, self.config.channels
        if (coordinates.shape[-1], values.shape[-1]) != wanted:
            raise UserError(
                f"points of {coordinates.shape[-1]} dimension(s) with {values.shape[-1]} number(s) "
                f"each, and this autoencoder takes {wanted[0]} and {wanted[1]}"
            )
        return self.codes(Points(coordinates), values)

    def codes(self, points: Points, values: Tensor) -> Tensor:
        """As `encode_points`, of points whose orders may be known already; unchecked."""
        tokens = self.encoder(points, values, self.anchors())
        return tokens.mT.unflatten(2, self.token_grid).float()

    def decode_at(self, latents: Tensor, coordinates: Tensor, *, chunk: int = 16384) -> Tensor:
        """Raw tokens [B, z, h, w], coordinates [B, M, d] or [M, d] → values [B, M, C], float32.

        Args:
            chunk: queries at once. With decoders whose values depend on the other queries
                (``joint``) all are decoded at once.

        Raises:
            UserError: coordinates of another kind of field, or outside [-1, 1].
        """
        asked = coordinates if coordinates.ndim == 3 else coordinates[None]
        check_points(asked)
        if asked.shape[-1] != self.config.dims:
            raise UserError(
                f"queries of {asked.shape[-1]} dimension(s), and this autoencoder's fields have "
                f"{self.config.dims}"
            )
        step = chunk if self.config.decoder.exact else asked.shape[1]
        return self.values(latents, [Points(part) for part in asked.split(step, dim=1)])

    def values(self, latents: Tensor, queries: Sequence[Points]) -> Tensor:
        """As `decode_at`, at queries in parts, whose orders may be known already; unchecked."""
        anchors, tokens = self.anchors(), latents.flatten(2).mT
        context = self.decoder.context(tokens, anchors)
        parts = [self.decoder(context, anchors, part, raw=tokens) for part in queries]
        return torch.cat(parts, dim=1)

    def decode_grid(self, latents: Tensor, resolution: int, *, supersample: int = 1) -> Tensor:
        """Raw tokens → values on a grid [B, C, R, …].

        Args:
            supersample: the mean over so many points along each side of a cell, which is what a
                pixel of that size is; 1: the value at its center.
        """
        dims, fine = self.config.dims, resolution * supersample
        points = grid(fine, dims, latents.device)
        values = self.decode_at(latents, points).mT.unflatten(2, (fine,) * dims)
        if supersample == 1:
            return values
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
        return pool(values, supersample)

    # Images (see `Autoencoder`) -------------------------------------------------------------------

    @property
    def channels(self) -> int:
        """Image channels."""
        return self.config.channels

    @property
    def latent_channels(self) -> int:
        """Numbers of a token."""
        return self.config.latent.channels

    @property
    def factor(self) -> int:
        """Pixels of a decoded image per token, along each side, about."""
        return max(self.config.resolution // self.config.side, 1)

    @property
    def token_grid(self) -> tuple[int, int]:
        """(h, w): tokens of three dimensions as two, those of one as a column."""
        side = self.config.side
        return {1: (side, 1), 2: (side, side), 3: (side * side, side)}[self.config.dims]

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(z, h, w), of images of any side that the lattice divides. Raises UserError for
        others, and where fields are no images."""
        if self.config.dims != 2:
            raise UserError(
                f"this autoencoder's fields have {self.config.dims} dimension(s): give it points "
                "(encode_points), not images"
            )
        if resolution % self.config.lattice:
            raise UserError(
                f"images of side {resolution} are no multiple of the lattice of "
                f"{self.config.lattice} points that this autoencoder reads: set "
                "transform.resolution to one"
            )
        return (self.latent_channels, *self.token_grid)

    def encode(self, images: Tensor) -> Posterior:
        """See `Autoencoder.encode`; all of the lattice's area means are given."""
        self.check_images(images)
        side = self.config.lattice
        means = F.avg_pool2d(2 * images - 1, images.shape[-1] // side)
        points = Points(grid(side, 2, images.device)[None])
        codes = self.codes(points, means.flatten(2).mT)
        return Posterior(codes, torch.full_like(codes, CERTAIN))

    def decode(self, latents: Tensor) -> Tensor:
        """See `Autoencoder.decode`; of side ``config.resolution``."""
        return (self.decode_grid(latents, self.config.resolution) + 1) / 2

    # Training and files ---------------------------------------------------------------------------

    def encoder_parameters(self) -> list[nn.Parameter]:
        """See `Autoencoder.encoder_parameters`."""
        return list(self.encoder.parameters())

    def decoder_parameters(self) -> list[nn.Parameter]:
        """See `Autoencoder.decoder_parameters`."""
        return list(self.decoder.parameters())

    def last_decoder_weight(self) -> nn.Parameter:
        """See `Autoencoder.last_decoder_weight`."""
        weight: Any = self.decoder.head.weight
        return weight

    def last_encoder_weight(self) -> nn.Parameter:
        """See `Autoencoder.last_encoder_weight`."""
        weight: Any = self.encoder.out.weight
        return weight

    def digest(self) -> str:
        """Hex digest of all weights."""
        return state_digest(self.state_dict())

    def encoder_digest(self) -> str:
        """Hex digest of the weights that decide the latents."""
        return state_digest(self.encoder.state_dict())

    def save_pretrained(self, folder: Path | str) -> Path:
        """Write ``config.json``, ``model.safetensors`` and the normalizer, all or nothing. Raises
        UserError when the normalizer is missing or stale."""
        normalizer, folder = self.require_normalizer(), Path(folder)
        with atomic_folder(folder) as tmp:
            write_json(tmp / CONFIG, {"_class_name": CLASS, "settings": asdict(self.config)})
            state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
            save_file(state, tmp / WEIGHTS)
            normalizer.save(tmp)
        log.info("saved the field autoencoder to %s", folder)
        return folder


def load_field(folder: Path | str) -> FieldAutoencoder:
    """What `FieldAutoencoder.save_pretrained` or an export wrote, frozen.

    Raises:
        UserError: nothing there, damaged, or settings of another version.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / CONFIG).read_text())["settings"]
        exported = not (folder / WEIGHTS).is_file() and (folder / EXPORTED).is_file()
        state = load_file(folder / (EXPORTED if exported else WEIGHTS))
        config = TypeAdapter(FieldAutoencoderConfig).validate_python(settings)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "it"
        raise UserError(
            f"settings in {folder / CONFIG} do not fit this version of latentsmith: {where}: "
            f"{error.errors()[0]['msg']}"
        ) from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{folder} holds no readable field autoencoder ({error}): save or copy it anew"
        ) from error
    autoencoder = FieldAutoencoder(config)
    try:
        autoencoder.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{folder / WEIGHTS} does not fit {CONFIG}: {first}") from error
    autoencoder.source = str(folder)
    autoencoder.normalizer = LatentNormalizer.load(folder)
    autoencoder.require_normalizer()
    return autoencoder.requires_grad_(False).eval()
