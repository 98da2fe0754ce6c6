"""When an additional loss counts, and how much."""

from typing import Annotated

from pydantic import Field

from latentsmith.config.schema import schema


@schema
class TermConfig:
    """Weight of an additional loss over a training. A term without weight is not computed."""

    weight: Annotated[float, Field(ge=0)] = 0.0
    """Factor of the loss once it has risen; 0: the term is off."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the training before the term starts."""
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the training over which its weight then rises linearly; 0: at once."""
    every: Annotated[int, Field(ge=1)] = 1
    """Compute it at every so many optimizer steps."""

    def weight_at(self, progress: float, step: int = 0) -> float:
        """w · clip((progress − warmup)/ramp, 0, 1).

        Args:
            progress: share of the training that is done, in [0, 1].
            step: number of the optimizer step; 0 at the steps between.
        """
        if self.weight == 0 or step % self.every or progress < self.warmup:
            return 0.0
        if self.ramp == 0:
            return self.weight
        return self.weight * min((progress - self.warmup) / self.ramp, 1.0)
