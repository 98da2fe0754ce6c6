"""Kernel distance between two sets of features: unbiased, so comparable across sample counts."""

from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.intervals import bootstrap_weights
from latentsmith.metrics.registry import metric


def _kernels(features: Tensor, features_ref: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Polynomial kernels (x.y / D + 1)^3 [N, N], [M, M], [N, M]; the square ones zero-diagonal."""
    for name, x in (("features", features), ("features_ref", features_ref)):
        if x.ndim != 2:
            raise UserError(f"{name} must be [N, D], got {list(x.shape)}.")
        check_count(len(x), 2, f"the kernel distance of {name}")
        check_finite(x, name)
    x, y = features.detach().double(), features_ref.detach().double()
    if x.shape[1] != y.shape[1]:
        raise UserError(
            f"features are {x.shape[1]} wide and features_ref {y.shape[1]}: two feature spaces."
        )
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    return xx.fill_diagonal_(0), yy.fill_diagonal_(0), xy


def _replicates(
    features: Tensor, features_ref: Tensor, *, value: float, replicates: int, seed: int
) -> Tensor:
    """Bootstrap over samples of both sides; copies of one sample are no pair."""
    xx, yy, xy = _kernels(features, features_ref)
    w = bootstrap_weights(len(xx), replicates, 2 * seed).to(xx.device)
    v = bootstrap_weights(len(yy), replicates, 2 * seed + 1).to(xx.device)

    def within(k: Tensor, weight: Tensor) -> Tensor:
        pairs = weight.sum(0) ** 2 - weight.square().sum(0)
        return ((k @ weight) * weight).sum(0) / pairs

    between = ((xy @ v) * w).sum(0) / (len(xx) * len(yy))
    return within(xx, w) + within(yy, v) - 2 * between


@metric(
    "kid",
    help="kernel distance of feature sets, unbiased (KID's formula; named kid_<feature space>)",
    inputs=("features", "features_ref"),
    higher_is_better=False,
    replicates=_replicates,
)
def kid(features: Tensor, features_ref: Tensor) -> float:
    """Unbiased MMD^2 with the cubic polynomial kernel (Binkowski et al. 2018), on *all* samples.

    0 in expectation for one distribution at any n; can be slightly negative.

    Args:
        features: [N, D]. features_ref: [M, D].

    Raises:
        UserError: fewer than 2 rows, unequal widths, NaN.
    """
    xx, yy, xy = _kernels(features, features_ref)
    n, m = len(xx), len(yy)
    return float(xx.sum() / (n * (n - 1)) + yy.sum() / (m * (m - 1)) - 2 * xy.mean())
