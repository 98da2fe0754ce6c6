"""Settings of the judge of captioned shapes."""

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.data.base import Split
from latentsmith.data.shapes import ShapesConfig, ShapesDataset
from latentsmith.training.config import TrainConfig

FORMAT = 1
"""Of saved judges; a new number makes all of them anew."""
DATA_SEED = 770_001
"""Far from the seeds that a generator's data have: a judge should not have seen its pictures."""

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


@schema
class JudgeConfig:
    """How the judge of captioned shapes is trained, and when it is good enough to judge."""

    width: Annotated[int, Field(ge=4)] = 32
    """Channels of the first layer; the last has four times as many."""
    samples: Count = 100_000
    """Pictures it is trained on, each drawn once. At 32 pixels it takes 200,000 to reach 99 %."""
    batch_size: Count = 128
    """Pictures per step."""
    lr: Annotated[float, Field(gt=0)] = 3e-3
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    pairs: Share = 0.5
    """Share of training pictures with two objects."""
    blur: Share = 1.0
    """Most of a 3 x 3 binomial blur that half of the training pictures get, so that slightly soft
    pictures are read too."""
    noise: Share = 0.04
    """Largest standard deviation of the noise on training pictures."""
    brightness: Share = 0.04
    """Largest shift of a training picture's grey levels; its contrast varies as much."""
    test_count: Count = 10_000
    """Held-out pictures its accuracy is measured on."""
    minimum: Share = 0.99
    """Joint accuracy on held-out pictures below which it refuses to judge."""
    seed: int = 0
    """Seeds weights, pictures and augmentation."""

    def __post_init__(self) -> None:
        if self.samples < self.batch_size:
            raise ValueError(
                f"samples {self.samples} is less than one batch of {self.batch_size}: raise "
                "samples or lower batch_size"
            )

    def data(self, resolution: int, split: Split) -> ShapesDataset:
        """The pictures it is trained or tested on."""
        cfg = ShapesConfig(
            resolution=resolution,
            train_count=self.samples,
            val_count=self.test_count,
            seed=DATA_SEED + self.seed,
            pairs=self.pairs,
        )
        return ShapesDataset(cfg, split)

    def train(self) -> TrainConfig:
        """For the training loop."""
        return TrainConfig(
            samples=self.samples,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=min(50 * self.batch_size, self.samples // 10),
            seed=self.seed,
            save_every=20_000,
            validate_every=20_000,
            log_every=5_000,
            keep_last=1,
            trackers=[],
            spike=None,  # pictures drawn by this library are not damaged
        )

    def identity(self, resolution: int) -> dict[str, Any]:
        """Everything a trained judge depends on; JSON-able."""
        settings = asdict(self)
        del settings["minimum"]  # decides whether it may judge, not what it is
        return {
            "format": FORMAT,
            "resolution": resolution,
            "settings": settings,
            "train": self.data(resolution, "train").digest,
            "test": self.data(resolution, "val").digest,
        }
