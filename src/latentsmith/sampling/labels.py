"""Which class each generated image has."""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentsmith.errors import UserError, nearest


def labels_of(
    numbers: Tensor, given: Sequence[str | int], classes: list[str] | None
) -> Tensor | None:
    """The class of each image [N]: those given, in turn; all in turn when none are given.

    Raises:
        UserError: unknown classes, or classes for an unconditional generator.
    """
    if classes is None:
        if given:
            raise UserError(f"labels={given}: this generator was trained without classes")
        return None
    chosen = [_class_number(str(name), classes) for name in given] or list(range(len(classes)))
    return torch.tensor(chosen)[numbers % len(chosen)]


def _class_number(name: str, classes: list[str]) -> int:
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    known = ", ".join(f"{n} {c}" for n, c in enumerate(classes[:20]))
    more = f" … ({len(classes)} in all)" if len(classes) > 20 else ""
    raise UserError(f"labels: no class {name!r}. {nearest(name, classes)} Classes: {known}{more}")
