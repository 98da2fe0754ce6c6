"""A training in words, before it begins."""

from latentsmith.training.config import TrainConfig
from latentsmith.utils.distributed import world_size


def length(train: TrainConfig) -> str:
    """Samples, steps, micro-batches, learning rate and precision.

    Raises UserError for a batch that the processes cannot share."""
    steps = -(-train.samples // train.batch_size)
    micros = train.micros(world_size())
    return (
        f"{train.samples:,} samples = {steps:,} steps of {train.batch_size} "
        f"({micros} micro-batch{'es' if micros > 1 else ''} each), lr {train.lr:g}, "
        f"{train.precision}"
    )
