"""What each of a generator's images is to show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.labels import labels_of


@dataclass
class Wanted:
    """What each of N images is to show.

    Attributes:
        numbers: of the images [N].
        labels: class of each [N]; None where there are none, or prompts.
        prompts: taken in turn; [] where there are none.
        said: what the prompts say, [P, …] by name.
    """

    numbers: Tensor
    labels: Tensor | None
    prompts: list[str]
    said: Condition

    @classmethod
    def of(
        cls,
        generator: LatentGenerator,
        numbers: Tensor,
        *,
        prompts: Sequence[str] = (),
        labels: Sequence[str | int] = (),
    ) -> "Wanted":
        """Read prompts, or classes by name or number; image i gets number i mod their count.

        Raises:
            UserError: prompts or classes that the generator does not take, or none where it must be
                told something.
        """
        if prompts:
            return cls(numbers, None, list(prompts), generator.prompt(prompts))
        classes = labels_of(numbers, labels, generator.info.classes)
        if classes is None:
            generator.of_labels(None)  # one that must be told texts says so
        return cls(numbers, classes, [], {})

    def of_rows(self, rows: Tensor) -> dict[str, Any]:
        """Arguments of `LatentGenerator.sample_latents` for some of the images [B]."""
        if not self.prompts:
            return {"labels": None if self.labels is None else self.labels[rows]}
        turn = self.numbers[rows] % len(self.prompts)
        return {"condition": {name: value[turn] for name, value in self.said.items()}}

    def told(self) -> tuple[list[int | None], list[str | None]]:
        """Class and prompt of each image."""
        nothing: list[None] = [None] * len(self.numbers)
        turns = (self.numbers % max(1, len(self.prompts))).tolist()
        return (
            [*nothing] if self.labels is None else self.labels.tolist(),
            [self.prompts[n] for n in turns] if self.prompts else [*nothing],
        )
