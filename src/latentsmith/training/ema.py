"""Exponential moving average of trainable parameters."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from latentsmith.training.sharded import copy_into, local


class EMA:
    """Moving average held by parameter *identity*.

    Wrappers that rename parameters (``_orig_mod.`` of torch.compile, ``module.`` of DDP) have
    made averages by name never move; identities cannot be renamed. The decay is warmed up as in
    diffusers' EMAModel, min(decay, (1 + n) / (10 + n)) after n updates and 0 at the first, so
    that short runs are not averages of their initialisation.

    Args:
        params: name → parameter; the names are used in files only.
        decay: decay per update once warmed up, in (0, 1).
    """

    def __init__(self, params: dict[str, nn.Parameter], decay: float):
        self.decay = decay
        self.updates = 0
        self._params = params
        self._shadow = [p.detach().clone() for p in params.values()]
        self._swapped = False

    def decay_now(self) -> float:
        """Decay of the next update."""
        n = self.updates
        return min(self.decay, (1 + n) / (10 + n)) if n > 0 else 0.0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters, all in one kernel where the device has it."""
        if self._swapped:
            raise RuntimeError("EMA.update() inside swapped_in(): the average would feed itself")
        weight = 1.0 - self.decay_now()
        shadow, params = _local(self._shadow), _local(self._params.values())
        torch._foreach_lerp_(shadow, params, weight)  # pyright: ignore[reportPrivateImportUsage]
        self.updates += 1

    @contextlib.contextmanager
    @torch.no_grad()
    def swapped_in(self) -> Iterator[None]:
        """The parameters *are* the average inside; the trained values come back however it ends.

        Values are copied, not storages exchanged: compiled graphs and DDP buckets stay valid.
        """
        if self._swapped:
            raise RuntimeError("EMA.swapped_in() is already open")
        params = _local(self._params.values())
        kept = [p.detach().clone() for p in params]
        self._swapped = True
        try:
            _copy(_local(self._shadow), params)
            with torch.enable_grad():
                yield
        finally:
            with torch.no_grad():
                _copy(kept, params)
            self._swapped = False

    @torch.no_grad()
    def copy_to_params(self) -> None:
        """Overwrite the parameters by the average, for good (export)."""
        _copy(_local(self._shadow), _local(self._params.values()))

    def tensors(self) -> dict[str, Tensor]:
        """name → average, sharing memory with the EMA; sharded like its parameter."""
        return dict(zip(self._params, self._shadow, strict=True))

    def move(self, params: dict[str, nn.Parameter], averages: dict[str, Tensor]) -> None:
        """Average other parameters of the same names from here on, starting from ``averages``."""
        self._params, self._shadow = params, [averages[name] for name in params]

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], updates: int) -> None:
        """Inverse of `tensors` plus ``updates``."""
        for name, shadow in zip(self._params, self._shadow, strict=True):
            copy_into(shadow, tensors[name])
        self.updates = updates


def _local(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [local(t) for t in tensors]


def _copy(source: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    for old, new in zip(into, source, strict=True):
        old.copy_(new)
