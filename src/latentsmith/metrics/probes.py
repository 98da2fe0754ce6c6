"""What frozen latents tell a linear classifier (or a nearest-neighbour vote) about classes.

Features are standardized with the training set's mean and deviation. The L2 strength is chosen
on a held-out fifth of the *training* samples, then the probe is refitted on all of them. Say the
controls beside the number: raw pixels, PCA of the same width.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite, check_labels
from latentsmith.metrics.neighbours import vote
from latentsmith.metrics.registry import metric
from latentsmith.utils.seeding import generator

L2_GRID = (1e-1, 1e-2, 1e-3, 1e-4)
"""Per-sample L2 strengths, strong to weak: each fit starts from the one before."""


def _prepare(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Standardized float32 features, labels as indices, number of classes."""
    check_finite(train, "train")
    check_finite(test, "test")
    check_count(len(train), 10, "a linear probe", "training samples")
    check_count(len(test), 1, "a linear probe", "test sample")
    train_labels = check_labels(train_labels, len(train), "train_labels")
    if len(test_labels) != len(test):
        raise UserError(f"there are {len(test_labels)} test_labels for {len(test)} samples.")
    x, t = train.detach().flatten(1).double(), test.detach().flatten(1).double()
    if x.shape[1] != t.shape[1]:
        raise UserError(f"train is {x.shape[1]} wide and test {t.shape[1]}.")
    live, mean, std = column_scale(x)
    x, t = ((part[:, live] - mean) / std for part in (x, t))
    names, y = train_labels.unique(return_inverse=True)
    known = torch.searchsorted(names, test_labels.long().clamp(names[0], names[-1]))
    # A class never seen in training can only be answered wrongly: index -1 matches no prediction.
    target = torch.where(names[known] == test_labels, known, -1)
    return x.float(), y, t.float(), target, len(names)


def column_scale(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How training features [N, D] are standardized: which columns vary (bool [D]), and those
    columns' mean and deviation [live].

    Raises:
        UserError: none varies.
    """
    mean, std = x.mean(0), x.std(0)
    live = std > 1e-6 * std.max()  # a constant feature tells nothing and must not be blown up
    if not live.any():
        raise UserError("a probe is undefined: all training features are constant (collapsed).")
    return live, mean[live], std[live]


def logistic_fit(
    x: Tensor, y: Tensor, classes: int, l2: float, start: Tensor | None = None, steps: int = 100
) -> Tensor:
    """Multinomial logistic regression by L-BFGS: weights [D + 1, K], the last row the bias.

    Minimizes mean cross-entropy + l2/2 |W|^2, bias free (scikit-learn's C = 1 / (N l2)).
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    rows, shape = torch.arange(len(x), device=x.device), (x.shape[1] + 1, classes)
    start = torch.zeros(shape) if start is None else start

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient; products with ``x`` in its precision, sums in float64."""
        weight = torch.from_numpy(flat).to(x.device).view(shape)
        scores = (x @ weight[:-1].to(x.dtype)).double() + weight[-1]
        log_p = scores.log_softmax(1)
        loss = -log_p[rows, y].mean() + 0.5 * l2 * weight[:-1].square().sum()
        error = log_p.exp()
        error[rows, y] -= 1
        error /= len(x)
        slope = (x.mT @ error.to(x.dtype)).double() + l2 * weight[:-1]
        slope = torch.cat([slope, error.sum(0, keepdim=True)])
        return float(loss), slope.flatten().cpu().numpy()

    # torch.optim.LBFGS takes twice as long for the same: its bookkeeping outweighs small problems.
    # One BLAS thread for SciPy's few dot products: a second one spins between them and takes the
    # core that torch's products want (two cores: 2.1 s a fit with it, 0.4 s without).
    with threadpool_limits(1, user_api="blas"):
        found = minimize(
            objective, start.double().flatten().cpu().numpy(), jac=True, method="L-BFGS-B",
            options={"maxiter": steps, "maxfun": 10 * steps, "gtol": 1e-5, "ftol": 1e-9},
        )  # fmt: skip
    return torch.from_numpy(found.x).view(shape).to(x)


def ridge_fit(x: Tensor, y: Tensor, classes: int, l2: float) -> Tensor:
    """Closed-form ridge regression on one-hot targets: weights [D + 1, K], the last row the bias.

    Minimizes mean |X W + b - Y|^2 + l2 |W|^2; primal or dual, whichever is smaller.
    """
    targets = F.one_hot(y, classes).double()
    mean_x, mean_y = x.double().mean(0), targets.mean(0)
    a, b = x.double() - mean_x, targets - mean_y
    n, d = a.shape
    ridge = l2 * n
    if d <= n:
        eye = torch.eye(d, dtype=a.dtype, device=a.device)
        weight = torch.linalg.solve(a.T @ a + ridge * eye, a.T @ b)
    else:
        eye = torch.eye(n, dtype=a.dtype, device=a.device)
        weight = a.T @ torch.linalg.solve(a @ a.T + ridge * eye, b)
    bias = mean_y - mean_x @ weight
    return torch.cat([weight, bias[None]]).to(x.dtype)


def predict(x: Tensor, weight: Tensor) -> Tensor:
    """Class index [N] of the highest score."""
    return (x @ weight[:-1] + weight[-1]).argmax(1)


def split(n: int) -> tuple[Tensor, Tensor]:
    """Four fifths to fit, one fifth to choose the strength: a fixed function of N."""
    order = torch.randperm(n, generator=generator("probe", n))
    return order[n // 5 :], order[: n // 5]


def best_logistic(x: Tensor, y: Tensor, classes: int, fit: Tensor, held: Tensor) -> Tensor:
    """`logistic_fit` on all rows, by the strength that is best on rows ``held`` after fitting on
    rows ``fit`` (indices)."""
    scores, weight = [], None
    for l2 in L2_GRID:
        weight = logistic_fit(x[fit], y[fit], classes, l2, weight)
        scores.append(float((predict(x[held], weight) == y[held]).double().mean()))
    best = max(range(len(scores)), key=scores.__getitem__)
    return logistic_fit(x, y, classes, L2_GRID[best], weight)


def _ridge(x: Tensor, y: Tensor, classes: int) -> Tensor:
    fit, held = split(len(x))
    scores = [
        float((predict(x[held], ridge_fit(x[fit], y[fit], classes, l2)) == y[held]).double().mean())
        for l2 in L2_GRID
    ]
    return ridge_fit(x, y, classes, L2_GRID[max(range(len(scores)), key=scores.__getitem__)])


def linear_probe_per_sample(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor
) -> Tensor:
    """1.0 where the logistic probe names the test sample's class, else 0.0; [N_test]."""
    x, y, t, target, classes = _prepare(train, train_labels, test, test_labels)
    weight = best_logistic(x, y, classes, *split(len(x)))
    return (predict(t, weight) == target).double()


def _majority(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, **_: Any
) -> tuple[float, dict[str, Any]]:
    commonest = train_labels.mode().values
    return float((test_labels == commonest).double().mean()), {"chance": "commonest class"}


@metric(
    "linear_probe",
    help="test accuracy of multinomial logistic regression on frozen features",
    inputs=("train", "train_labels", "test", "test_labels"),
    higher_is_better=True,
    per_sample=linear_probe_per_sample,
    baseline=_majority,
)
def linear_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Accuracy on ``test`` of a logistic probe fitted on ``train``.

    Args:
        train: [N, ...], flattened. test: [M, ...]. labels: int [N], [M].

    Raises:
        UserError: fewer than 10 training samples, constant features, NaN, mismatched labels.
    """
    return float(linear_probe_per_sample(train, train_labels, test, test_labels).mean())


def ridge_probe_per_sample(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor
) -> Tensor:
    """As `linear_probe_per_sample`, for ridge regression on one-hot targets."""
    x, y, t, target, classes = _prepare(train, train_labels, test, test_labels)
    return (predict(t, _ridge(x, y, classes)) == target).double()


@metric(
    "ridge_probe",
    help="test accuracy of closed-form ridge classification on frozen features",
    inputs=("train", "train_labels", "test", "test_labels"),
    higher_is_better=True,
    per_sample=ridge_probe_per_sample,
    baseline=_majority,
)
def ridge_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Accuracy on ``test`` of ridge regression on one-hot targets. Arguments: as `linear_probe`."""
    return float(ridge_probe_per_sample(train, train_labels, test, test_labels).mean())


def knn_probe_per_sample(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, k: int = 10
) -> Tensor:
    """1.0 where the k nearest training samples vote for the test sample's class; [N_test]."""
    check_count(len(train), k, f"knn_probe with k = {k}", "training samples")
    x, y, t, target, classes = _prepare(train, train_labels, test, test_labels)
    found = [torch.cdist(rows, x).topk(k, largest=False).indices for rows in t.split(1024)]
    return (vote(y[torch.cat(found)], classes) == target).double()


@metric(
    "knn_probe",
    help="test accuracy of a vote of the k nearest training samples (standardized features)",
    inputs=("train", "train_labels", "test", "test_labels"),
    higher_is_better=True,
    per_sample=knn_probe_per_sample,
    baseline=_majority,
)
def knn_probe(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, k: int = 10
) -> float:
    """Accuracy on ``test`` of a k-nearest-neighbour vote. Arguments: as `linear_probe`."""
    return float(knn_probe_per_sample(train, train_labels, test, test_labels, k=k).mean())


def pca_features(train: Tensor, test: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Both projected on the training set's first ``width`` principal axes: the probe's control."""
    x, t = train.detach().flatten(1).float(), test.detach().flatten(1).float()
    width = min(width, len(x) - 1, x.shape[1])
    mean = x.mean(0)
    torch_state = torch.random.get_rng_state()
    try:
        torch.manual_seed(0)  # pca_lowrank draws from the global stream
        _, _, axes = torch.pca_lowrank(x - mean, q=width, center=False)
    finally:
        torch.random.set_rng_state(torch_state)
    return (x - mean) @ axes, (t - mean) @ axes
