"""What every guidance promises.

One scale convention for all kinds: 1 is the conditional model as it is (one forward a step), 0 the
model it is compared with, above 1 the difference is exaggerated:

    D = D_ref + scale (D_cond − D_ref)

Papers that write (1 + w) D_cond − w D_ref mean scale = 1 + w. Since z = α x + σ ε holds for both
predictions, mixing x̂ and ε̂ with the same scale mixes every parametrization. A learned variance is
the conditional model's.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.config.schema import schema
from latentsmith.diffusion.denoiser import Denoise, Denoiser, Prediction
from latentsmith.errors import UserError
from latentsmith.registry import Registry

GUIDANCE = Registry("guidance", "latentsmith.sampling.guidance")


@schema
class GuidanceConfig:
    """Base of all guidance configs. Subclasses add ``kind: Literal[...]`` and `bind`."""

    kind: str

    def bind(
        self, denoiser: Denoiser, condition: Condition, weak: Denoiser | None = None
    ) -> Denoise:
        """What a sampler asks, for one batch.

        Args:
            denoiser: the model.
            condition: of the batch, one row per sample; {} for unconditional models.
            weak: a worse version of the model, for autoguidance only.

        Raises:
            UserError: the model has nothing to be compared with, or ``weak`` is missing or of no
                use.
        """
        raise TypeError(f"{type(self).__name__} has no bind()")


class Together:
    """Predictions under several conditions from one forward of k B rows.

    Args:
        denoiser: the model.
        conditions: k of them, each of B samples, with the same names.
    """

    def __init__(self, denoiser: Denoiser, conditions: Sequence[Condition]):
        self.denoiser, self.count = denoiser, len(conditions)
        first = conditions[0]
        self.all = {name: torch.cat([c[name] for c in conditions]) for name in first}

    def __call__(self, z: Tensor, t: Tensor) -> list[Prediction]:
        """One for each condition, in their order."""
        n, k = len(z), self.count
        seen = self.denoiser(torch.cat([z] * k), torch.cat([t] * k), self.all)
        return [rows_of(seen, slice(i * n, (i + 1) * n)) for i in range(k)]


class Pair:
    """Conditional and unconditional predictions from one forward of 2 B rows.

    Args:
        denoiser: the model.
        condition: of B samples.

    Raises:
        UserError: the model is unconditional.
    """

    def __init__(self, denoiser: Denoiser, condition: Condition):
        if not condition:
            raise UserError(
                "classifier-free guidance compares with and without a condition, and this model "
                "has none: use guidance=none"
            )
        self.both = Together(denoiser, [condition, denoiser.backbone.null(condition)])

    def __call__(self, z: Tensor, t: Tensor) -> tuple[Prediction, Prediction]:
        """(conditional, unconditional)."""
        conditional, unconditional = self.both(z, t)
        return conditional, unconditional


def rows_of(seen: Prediction, rows: slice) -> Prediction:
    """Some rows of a prediction."""
    return replace(
        seen,
        data=seen.data[rows],
        noise=seen.noise[rows],
        t=seen.t[rows],
        variance=None if seen.variance is None else seen.variance[rows],
    )


def no_weak(weak: Denoiser | None, kind: str) -> None:
    """Raises UserError when there is a weak model."""
    if weak is not None:
        raise UserError(f"guidance={kind} has no use for a weak model: use autoguidance")
