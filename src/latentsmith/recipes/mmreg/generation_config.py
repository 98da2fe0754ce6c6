"""Settings of Stage C: what diffusion gains from the regularized latents."""

from dataclasses import field
from typing import Annotated

from pydantic import Field

from latentsmith.backbones.base import BACKBONES, BackboneConfig
from latentsmith.config.schema import schema
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.encoders.base import ENCODERS, EncoderConfig
from latentsmith.registry import OneOf
from latentsmith.sampling.guidance import GUIDANCE, GuidanceConfig
from latentsmith.sampling.samplers import SAMPLERS, SamplerConfig
from latentsmith.training.config import TrainConfig


@schema
class GenerationConfig:
    """The same generator trained on each arm's latents: same start, order, noise, steps."""

    backbone: Annotated[BackboneConfig, OneOf(BACKBONES)]
    """Network that denoises the latents."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """Path, objective, time sampling, dropout of labels."""
    train: TrainConfig
    """Training of each generator; its length is the last score."""
    score_at: list[Annotated[int, Field(gt=0)]] = field(default_factory=list)
    """Samples seen at which images are generated and scored; the end of training always is."""
    seeds: Annotated[int, Field(gt=0)] = 1
    """Generators per arm, each with another seed: several give the scores an interval."""
    teacher: Annotated[EncoderConfig, OneOf(ENCODERS)] | None = None
    """Encoder whose tokens the generator's hidden tokens are aligned with (REPA), cached once;
    `diffusion.alignment` says how."""
    flip: bool = False
    """Cache the mirrored images' latents too, and draw between the two."""
    sampler: Annotated[SamplerConfig, OneOf(SAMPLERS)]
    """Sampler behind the scores."""
    guidance: Annotated[GuidanceConfig, OneOf(GUIDANCE)]
    """Guidance behind the scores; Stage C compares without."""
    count: Annotated[int, Field(ge=64)] = 2048
    """Images generated for each score, with the same noise and labels every time."""
    batch_size: Annotated[int, Field(gt=0)] = 128
    """Images generated at once."""

    def __post_init__(self) -> None:
        aligned = self.diffusion.alignment is not None
        if aligned != (self.teacher is not None):
            raise ValueError(
                "REPA needs both: diffusion.alignment={weight: 0.5, blocks: [4]} says how, and "
                "teacher=dinov2 whose tokens" + (" (no teacher is set)" if aligned else "")
            )
        if aligned and self.flip:
            raise ValueError(
                "flip caches mirrored latents, and there are no teacher tokens of mirrored images: "
                "set flip=false or diffusion.alignment=null"
            )
        if self.score_at != sorted(set(self.score_at)):
            raise ValueError(f"score_at {self.score_at} must rise from each value to the next")
        late = [samples for samples in self.score_at if samples > self.train.samples]
        if late:
            raise ValueError(
                f"score_at holds {late}, after the end of training at train.samples="
                f"{self.train.samples}: lower it, or train longer"
            )

    def milestones(self) -> list[int]:
        """Samples seen at every score, the last being the end of training."""
        return sorted({*self.score_at, self.train.samples})
