"""What a trained generator knows of an image: the hidden tokens of its denoiser at one time.

    z_t = α(t) x + σ(t) ε,  x: the image's normalized latent (mode),  features: tokens of a block

(REPA, Yu et al. 2025, and DIFT, Tang et al. 2023, probe diffusion models so.) The noise ε is the
same for every image: what images do not share then comes from the images. The network is told
nothing but the image: no class, the empty prompt.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.backbones.base import Tap
from latentsmith.config.schema import schema
from latentsmith.data.transforms import resize
from latentsmith.diffusion.align import Aligner
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
    """Block whose tokens are taken: 1 … depth, or a name (U-Nets: mid). Left out: the middle; with
    project, the first aligned block."""
    time: Annotated[float, Field(ge=0, le=1)] = 0.25
    """How much noise the network sees: 0 none, 1 nothing else."""
    draws: Annotated[int, Field(ge=1)] = 1
    """Noises the tokens are averaged over."""
    project: bool = False
    """Take the tokens after the alignment head that was saved with the generator: [N, D of the
    teacher], on the network's own grid."""
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
        UserError: no autoencoder to encode images with, no such block; of ``project`` no alignment
            heads, or none on that block.
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
        self.aligner = _heads(source, config.tap) if config.project else None
        first = self.aligner.taps[0] if self.aligner else (self.backbone.depth + 1) // 2
        self.tap = first if config.tap is None else config.tap
        self.dim, self.grid = self.backbone.tap_shape(self.tap)
        if self.aligner is not None:
            self.dim = self.aligner.teacher_dim
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
        return self.of_latents(self.autoencoder.encode(self.preprocess(images)).mode())

    @torch.no_grad()
    def of_latents(self, latents: Tensor) -> EncoderOutput:
        """Of images that are encoded already: raw latents [B, C, h, w] (posterior means)."""
        x = self.normalizer.normalize(latents)
        t = torch.full((len(x),), self.config.time, device=x.device)
        nothing = self.backbone.nothing(len(x), x.device)
        total = torch.zeros((), device=x.device)
        for noise in self.noise:
            z = self.path.mix(x, noise.expand_as(x), t)
            found = self.backbone.features(z, t, nothing, [self.tap])[self.tap]
            if self.aligner is not None:
                found = self.aligner.project(self.tap, found.float(), t)
            total = total + found.float() / len(self.noise)
        return EncoderOutput(pooled=total.mean(1), tokens=total)

    def digest(self) -> str:
        """Of the weights of denoiser, autoencoder and, where they are used, alignment heads."""
        states = {"backbone": self.backbone, "autoencoder": self.autoencoder}
        if self.aligner is not None:
            states["aligner"] = self.aligner
        return state_digest(
            {f"{n}.{k}": v for n, model in states.items() for k, v in model.state_dict().items()}
        )

    def fingerprint(self) -> dict[str, object]:
        """See `Encoder.fingerprint`."""
        found: dict[str, object] = {
            "kind": self.name,
            "weights": self.digest(),
            "tap": self.tap,
            "time": self.config.time,
            "draws": self.config.draws,
            "size": list(self.size),
            "output": self.output,
        }
        return found if self.aligner is None else found | {"project": True}


def _heads(source: Any, tap: Tap | None) -> Aligner:
    """The generator's alignment heads, ``tap``'s among them."""
    if source.aligner is None:
        raise UserError(
            "project=true takes tokens after an alignment head, and this generator was saved "
            "without: give one that was trained with alignment, or set project=false"
        )
    if tap is not None:
        source.aligner.check_tap(tap)
    return source.aligner
