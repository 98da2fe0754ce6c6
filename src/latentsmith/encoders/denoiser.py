"""What a trained generator knows of an image: the hidden tokens of its denoiser at one time.

    z_t = α(t) x + σ(t) ε,  x: the image's normalized latent (mode),  features: tokens of a block

(REPA, Yu et al. 2025, and DIFT, Tang et al. 2023, probe diffusion models so.) The noise ε is the
same for every image: what images do not share then comes from the images. The network is told
nothing but the image: no class, the empty prompt.
"""

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.transforms import resize
from latentsmith.encoders.base import ENCODERS, Encoder, EncoderConfig, EncoderOutput, to_rgb
from latentsmith.errors import UserError
from latentsmith.utils.digest import state_digest
from latentsmith.utils.seeding import generator


@ENCODERS.register("denoiser", help="hidden tokens of a trained generator, at one time and block")
@schema
class DenoiserConfig(EncoderConfig):
    """A trained generator as an encoder."""

    gives_tokens = True

    kind: Literal["denoiser"] = "denoiser"
    source: str = "generator"
    """Folder of a saved generator (in a run: training/generator-…/generator)."""
    tap: int | str | None = None
    """Block whose tokens are taken: 1 … depth, or a name (U-Nets: mid). Left out: the middle."""
    time: Annotated[float, Field(ge=0, le=1)] = 0.25
    """How much noise the network sees: 0 none, 1 nothing else."""
    draws: Annotated[int, Field(ge=1)] = 1
    """Noises the tokens are averaged over."""
    output: Literal["pooled", "tokens"] = "pooled"
    """``pooled``: mean over tokens [D]; ``tokens``: all of them."""

    def build(self) -> "DenoiserEncoder":
        """Load generator and autoencoder. Raises UserError when they cannot be had or do not
        belong together."""
        from latentsmith.sampling.generator import LatentGenerator

        return DenoiserEncoder(LatentGenerator.load(self.source), config=self)


class DenoiserEncoder(Encoder):
    """See `DenoiserConfig`.

    Args:
        source: a `latentsmith.sampling.generator.LatentGenerator` with its autoencoder.

    Raises:
        UserError: no autoencoder to encode images with, no such block.
    """

    name = "denoiser"
    noise: Tensor

    def __init__(self, source: Any, *, config: DenoiserConfig):
        super().__init__()
        if source.autoencoder is None:
            raise UserError("features of images need the generator's autoencoder: load it with it")
        self.config, self.output, self.path = config, config.output, source.path
        self.normalizer = source.normalizer
        self.backbone, self.autoencoder = source.backbone, source.autoencoder
        self.tap = (self.backbone.depth + 1) // 2 if config.tap is None else config.tap
        self.dim, self.grid = self.backbone.tap_shape(self.tap)
        shape = self.backbone.latent_shape
        noise = torch.randn(config.draws, *shape, generator=generator("denoiser features"))
        self.register_buffer("noise", noise, persistent=False)
        factor = self.autoencoder.factor
        self.size = (shape[1] * factor, shape[2] * factor)
        self.freeze()

    def preprocess(self, images: Tensor) -> Tensor:
        """Resized to the generator's images, gray repeated where it is trained on colour."""
        images = resize(images, self.size)
        if self.autoencoder.channels == 3:
            return to_rgb(images)
        return images if images.shape[1] == 1 else images.mean(1, keepdim=True)

    @torch.no_grad()
    def forward(self, images: Tensor) -> EncoderOutput:
        """[B, 1 or 3, H, W] in [0, 1] → pooled [B, D], tokens [B, N, D]."""
        x = self.normalizer.normalize(self.autoencoder.encode(self.preprocess(images)).mode())
        t = torch.full((len(x),), self.config.time, device=x.device)
        nothing = self.backbone.nothing(len(x), x.device)
        total = torch.zeros((), device=x.device)
        for noise in self.noise:
            z = self.path.mix(x, noise.expand_as(x), t)
            found = self.backbone.features(z, t, nothing, [self.tap])[self.tap]
            total = total + found.float() / len(self.noise)
        return EncoderOutput(pooled=total.mean(1), tokens=total)

    def dense(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Features of every pixel: tokens as a map, resized (bilinear) to [B, D, *size]."""
        tokens = self(images).tokens
        assert tokens is not None
        return F.interpolate(self.backbone.as_map(self.tap, tokens), size, mode="bilinear")

    def digest(self) -> str:
        """Of the weights of denoiser and autoencoder."""
        states = {"backbone": self.backbone, "autoencoder": self.autoencoder.model}
        return state_digest(
            {f"{n}.{k}": v for n, model in states.items() for k, v in model.state_dict().items()}
        )

    def fingerprint(self) -> dict[str, object]:
        """See `Encoder.fingerprint`."""
        return {
            "kind": self.name,
            "weights": self.digest(),
            "tap": self.tap,
            "time": self.config.time,
            "draws": self.config.draws,
            "size": list(self.size),
            "output": self.output,
        }
