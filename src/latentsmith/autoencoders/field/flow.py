"""Values at points as a flow: a decoder that says the velocity of noisy values.

    z_t = α(t) x + σ(t) n        x: values; n: a smooth *function* of the coordinate

The noise is one function on the whole domain (`latentsmith.data.fields.noise`): a draw is the same
at 32, 64 and 96 points a side, and neighbours agree on what is uncertain. What the decoder is told
of the field is either the tokens of phase 1's frozen encoder (DiffAE), or the sparse input itself
(``mamba_flow``: no latent; with ``bottleneck`` the source's minimal test).

The source's time runs the other way: here t = 0 is data, t = 1 noise. Source:
spec/4-field-autoencoder.md "Training", "Baselines".
"""

import json
import logging
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentsmith.autoencoders.field.decoders import DECODERS, DecoderConfig
from latentsmith.autoencoders.field.model import FieldAutoencoderConfig
from latentsmith.autoencoders.field.weights import start
from latentsmith.backbones.mixers import MIXERS, MixerConfig, Points
from latentsmith.config.schema import schema
from latentsmith.data.fields.noise import SmoothNoise
from latentsmith.diffusion.denoiser import Denoise, Prediction
from latentsmith.diffusion.flow import LinearPathConfig
from latentsmith.diffusion.paths import PATHS, PathConfig
from latentsmith.diffusion.times import TimeConfig
from latentsmith.errors import UserError
from latentsmith.registry import OneOf
from latentsmith.sampling.noise import starting_noise
from latentsmith.sampling.samplers import SamplerConfig
from latentsmith.utils.files import atomic_folder, write_json

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = "flow.json", "model.safetensors"

Told = Literal["code", "inputs"]
"""What a flow is told of a field: the latent tokens, or the sparse input itself."""


@schema
class FieldNoiseConfig:
    """The function that a flow starts from."""

    band_limit: Annotated[float, Field(gt=0)] = 16.0
    """Its highest frequency, in cycles over the domain."""
    features: Annotated[int, Field(gt=0)] = 128
    """Waves it is made of."""


@schema
class FieldFlowConfig:
    """A decoder of noisy values."""

    told: Told = "code"
    """code: latent tokens of a trained autoencoder; inputs: the sparse points themselves."""
    decoder: Annotated[DecoderConfig, OneOf(DECODERS)]
    """How a query sees what it is told: cross, scan, pointwise or joint."""
    mixer: Annotated[MixerConfig, OneOf(MIXERS)]
    """How tokens (with joint: and queries) see each other."""
    bottleneck: Annotated[int, Field(gt=0)] | None = None
    """Squeeze every token through so many channels after half of the blocks (the source's minimal
    test). null: no."""
    path: Annotated[PathConfig, OneOf(PATHS)] = field(default_factory=LinearPathConfig)
    """From values to noise."""
    times: TimeConfig = field(default_factory=TimeConfig)
    """Which times the training sees."""
    noise: FieldNoiseConfig = field(default_factory=FieldNoiseConfig)
    """What it starts from."""
    init_seed: int = 0
    """Seed of the initial weights."""

    def build(self, like: FieldAutoencoderConfig) -> "FieldFlow":
        """For fields (and tokens) as those of an autoencoder."""
        return FieldFlow(self, like)


class FieldFlow(nn.Module):
    """See the module's text.

    Attributes:
        noise: a function of the coordinate, by its weights.
    """

    def __init__(self, config: FieldFlowConfig, like: FieldAutoencoderConfig):
        super().__init__()
        self.config, self.like, self.path = config, like, config.path.build()
        coded = config.told == "code"
        self.decoder = config.decoder.build(
            like.shape(
                tokens=like.latent.channels if coded else like.channels,
                mixer=config.mixer,
                denoises=True,
                bottleneck=config.bottleneck,
            )
        )
        noise = config.noise
        self.noise = SmoothNoise(
            like.channels, like.dims, band_limit=noise.band_limit, features=noise.features
        )
        start(self, config.init_seed)

    def denoise(self, context: Tensor, points: Points, queries: Points) -> Denoise:
        """What samplers take, for values [B, M, C] at ``queries``; ``context`` as
        `FieldDecoder.context` gives it, at ``points``."""

        def predict(z: Tensor, t: Tensor) -> Prediction:
            velocity = self.decoder(context, points, queries, noisy=z, t=t)
            return Prediction.of(velocity, z, t, self.path, "velocity")

        return predict

    @torch.no_grad()
    def draw(
        self,
        tokens: Tensor,
        points: Points,
        coordinates: Tensor,
        sampler: SamplerConfig,
        *,
        seed: int = 0,
        indices: Tensor | None = None,
        chunk: int = 16384,
    ) -> Tensor:
        """One draw of every field at coordinates [B, M, d] or [1, M, d] → [B, M, C].

        The draw is a function of (seed, index of the field): with decoders that are exact, the
        same at a coordinate whatever else is asked.

        Args:
            tokens: [B, K, z] of the code, or the sparse values [B, N, C], at ``points``.
            indices: which samples these are [B]; 0 … B − 1 when not given.
            chunk: queries at once (of exact decoders).
        """
        if indices is None:
            indices = torch.arange(len(tokens))
        weights = starting_noise(seed, indices, self.noise.shape).to(coordinates.device)
        context = self.decoder.context(tokens, points)
        step = chunk if self.config.decoder.exact else coordinates.shape[1]
        parts = []
        for part in coordinates.split(step, dim=1):
            z = self.noise(weights, part).expand(len(tokens), -1, -1)
            denoise = self.denoise(context, points, Points(part))
            parts.append(sampler.sample(denoise, z, path=self.path))
        return torch.cat(parts, dim=1)

    def save_pretrained(self, folder: Path | str) -> Path:
        """Write ``flow.json`` and ``model.safetensors``, all or nothing."""
        folder = Path(folder)
        about = {"settings": asdict(self.config), "like": asdict(self.like)}
        with atomic_folder(folder) as tmp:
            write_json(tmp / CONFIG, about)
            state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
            save_file(state, tmp / WEIGHTS)
        log.info("saved the flow to %s", folder)
        return folder


def load_flow(folder: Path | str) -> FieldFlow:
    """What `FieldFlow.save_pretrained` wrote, frozen.

    Raises:
        UserError: nothing there, damaged, or settings of another version.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / CONFIG).read_text())
        config = TypeAdapter(FieldFlowConfig).validate_python(about["settings"])
        like = TypeAdapter(FieldAutoencoderConfig).validate_python(about["like"])
        flow = config.build(like)
        flow.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"{folder} holds no flow of this version of latentsmith ({first}): train it again"
        ) from error
    return flow.requires_grad_(False).eval()
