"""How well do an encoder's features come back from a latent?"""

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_finite
from latentsmith.metrics.registry import metric


def feature_mse_per_sample(tokens: Tensor, tokens_ref: Tensor) -> Tensor:
    """Mean squared error [N] of each sample; arguments as `feature_mse`."""
    if tokens.shape != tokens_ref.shape or tokens.ndim != 3:
        raise UserError(
            f"tokens must have one shape [N, T, D], got {list(tokens.shape)} and "
            f"{list(tokens_ref.shape)}."
        )
    check_finite(tokens, "tokens")
    check_finite(tokens_ref, "tokens_ref")
    pairs = zip(tokens.split(256), tokens_ref.split(256), strict=True)
    return torch.cat([(a.double() - b.double()).square().flatten(1).mean(1) for a, b in pairs])


@metric(
    "feature_mse",
    help="mean squared error of feature tokens that were read back from a latent",
    inputs=("tokens", "tokens_ref"),
    higher_is_better=False,
    best=0.0,
    per_sample=feature_mse_per_sample,
)
def feature_mse(tokens: Tensor, tokens_ref: Tensor) -> float:
    """Mean over samples, tokens and channels, in the units of the features given (standardized
    ones: 1 is what their mean would get).

    Args:
        tokens: read back [N, T, D]. tokens_ref: the encoder's, same shape.

    Raises:
        UserError: shapes differ, NaN.
    """
    return float(feature_mse_per_sample(tokens, tokens_ref).mean())
