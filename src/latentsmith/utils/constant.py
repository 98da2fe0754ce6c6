"""Tables that are the same for all, made once."""

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec

from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

P = ParamSpec("P")


def constant(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """`functools.cache` for a function that makes a tensor of nothing but its arguments.

    What is made is real also if the first to ask works on fake tensors (`latentsmith.planning`),
    whose kind would stay in the cache for everybody after."""

    @cache
    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        with _disable_current_modes():
            return make(*args, **kwargs)

    return made  # pyright: ignore[reportReturnType]
