"""Settings of one training run. Progress is counted in samples everywhere."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.errors import UserError

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]


@schema
class TrainConfig:
    """How to train: length, batch, optimiser, precision, cadences. Knows no recipe."""

    samples: Positive = 64_000
    """Samples to train on (not steps, not epochs); rounded up to whole batches."""
    batch_size: Positive = 64
    """Samples per optimiser step, over all processes and micro-batches together."""
    micro_batch: Positive | None = None
    """Samples per forward pass and process (gradient accumulation); null: the whole batch."""
    lr: Rate = 1e-4
    """Peak learning rate of AdamW. Never scaled by batch size or processes behind your back."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of AdamW's running mean and squared mean of the gradient."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay, on matrices and convolutions only (not on biases and norms)."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate after the warm-up: flat, or half a cosine down to 0 at the end."""
    warmup: Count = 0
    """Samples over which the learning rate rises linearly from 0."""
    clip: Rate | None = 1.0
    """Largest norm of each objective's gradient; null: do not clip."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast of the forward pass. Weights, gradients and optimiser state stay float32."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of the moving average of the weights (warmed up); null: none."""
    shard: Literal["none", "fsdp"] = "none"
    """What several processes hold: all weights, moments and averages each (none: DDP), or each a
    part of those that train, gathered while they are used (fsdp)."""
    compile: bool = False
    """torch.compile the parts the task names (slow start, faster steps; no change of names)."""
    seed: int = 0
    """Seeds every random stream of the training."""
    save_every: Positive = 16_000
    """Samples between checkpoints; the end and Ctrl-C also save."""
    keep_last: Positive = 2
    """Checkpoints to keep; older ones are deleted after the new one stands."""
    validate_every: Positive = 6_400
    """Samples between validations (fixed batch, fixed noise) and sample grids."""
    log_every: Positive = 640
    """Samples between records in metrics.jsonl and status lines."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = field(
        default_factory=lambda: ["tensorboard"]
    )
    """Where metrics go besides metrics.jsonl, which is always written."""
    nonfinite_budget: Count = 10
    """Steps whose loss or gradient may be NaN or infinite before training stops. Each is skipped
    and its sample ids are written to nonfinite.jsonl."""
    spike: Rate | None = 8.0
    """Steps with a loss part so many deviations above its mean of the last 100 steps are written to
    spikes.jsonl with their sample ids (a damaged teacher shows there); null: none are."""

    def __post_init__(self) -> None:
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch {self.micro_batch}: "
                f"use micro_batch={_divisor(self.batch_size, self.micro_batch)} or batch_size="
                f"{-(-self.batch_size // self.micro_batch) * self.micro_batch}"
            )
        if self.batch_size > self.samples:
            raise ValueError(
                f"samples {self.samples} is less than one batch of {self.batch_size}: "
                f"raise samples or lower batch_size"
            )
        if self.warmup > self.samples:
            raise ValueError(
                f"warmup {self.warmup} is longer than the run of {self.samples} samples: "
                f"lower warmup (it counts samples, not steps)"
            )
        if self.shard == "fsdp" and self.precision == "fp16":
            raise ValueError(
                "precision fp16 finds its scale in whole gradients, which shard=fsdp never holds: "
                "use precision=bf16 (or shard=none)"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {tuple(self.betas)} must both be in [0, 1), as (0.9, 0.99)")

    def micros(self, world_size: int) -> int:
        """Micro-batches per step and process. Raises UserError when the batch does not divide."""
        if self.batch_size % world_size:
            raise UserError(
                f"batch_size {self.batch_size} does not divide over {world_size} processes: use a "
                f"multiple, as {-(-self.batch_size // world_size) * world_size}"
            )
        local = self.batch_size // world_size
        if self.micro_batch is None:
            return 1
        if local % self.micro_batch:
            raise UserError(
                f"each of {world_size} processes has {local} samples of batch_size "
                f"{self.batch_size}, no multiple of micro_batch {self.micro_batch}: use "
                f"micro_batch={_divisor(local, self.micro_batch)}"
            )
        return local // self.micro_batch


def _divisor(total: int, most: int) -> int:
    """The largest divisor of ``total`` that is at most ``most``."""
    return max(d for d in range(1, most + 1) if total % d == 0)


MAY_CHANGE = (
    "samples",
    "micro_batch",
    "shard",
    "save_every",
    "keep_last",
    "validate_every",
    "log_every",
    "trackers",
    "nonfinite_budget",
    "spike",
)
"""Settings a resumed run may change: its length, its cadences, and how batch and weights are cut to
fit the memory (same batches, but not bit for bit the same noise or sums). All others decide what is
learnt."""
