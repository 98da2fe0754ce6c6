"""Models that sampler tests know all about."""

import math
from collections.abc import Collection

import torch
from torch import Tensor

from latentsmith.backbones.base import Backbone, BackboneOutput, Condition
from latentsmith.diffusion.denoiser import Prediction
from latentsmith.diffusion.paths import Path
from latentsmith.errors import UserError

SHAPE = (4, 4, 4)


def column(t: Tensor, like: Tensor) -> Tensor:
    """t [B] → [B, 1, …]."""
    return t.view(-1, *[1] * (like.ndim - 1)).to(like)


class Gaussian:
    """Data N(mean, std²) in every coordinate: the exact denoiser, the exact flow from noise.

    z_t is normal with mean α m and variance α² s² + σ², so x̂ = E[x | z_t] is linear in z_t.
    """

    def __init__(self, path: Path, mean: float = 0.7, std: float = 0.5):
        self.path, self.mean, self.std = path, mean, std
        self.calls = 0

    def __call__(self, z: Tensor, t: Tensor) -> Prediction:
        self.calls += 1
        a, s = column(self.path.alpha(t), z), column(self.path.sigma(t), z)
        residual = (z - a * self.mean) / (a**2 * self.std**2 + s**2)
        return Prediction(self.mean + a * self.std**2 * residual, s * residual, t, self.path)

    def flow(self, z: Tensor, t: float, s: float) -> Tensor:
        """Where the probability flow carries z from t to s: it keeps the quantile."""
        a_t, s_t, a_s, s_s = (
            float(f(torch.tensor(x, dtype=torch.float64)))
            for x in (t, s)
            for f in (self.path.alpha, self.path.sigma)
        )
        spread_t, spread_s = (math.hypot(a * self.std, b) for a, b in ((a_t, s_t), (a_s, s_s)))
        return a_s * self.mean + (z - a_t * self.mean) * spread_s / spread_t


class Network:
    """A fixed random nonlinear network, with classes: (z, t, label) → tensor like z."""

    def __init__(self, seed: int = 0, channels: int = 4, classes: int = 5):
        rng = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
        self.inner, self.outer = draw(16, channels), draw(channels, 16) / 4
        self.time, self.label = draw(16, 2), draw(classes + 1, 16)

    def __call__(self, z: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        angle = 3 * t.to(z)[:, None]
        bias = torch.cat([angle.sin(), angle.cos()], 1) @ self.time.to(z).T  # [B, 16]
        if label is not None:
            bias = bias + self.label.to(z)[label]
        hidden = torch.einsum("oc,bchw->bohw", self.inner.to(z), z) + bias[..., None, None]
        return torch.einsum("co,bohw->bchw", self.outer.to(z), hidden.tanh())


class TinyBackbone(Backbone):
    """`Network` as a backbone that predicts the velocity; the last class is the null condition.

    Attributes:
        batches: batch sizes of the forwards so far.
    """

    predicts = "velocity"
    latent_shape = SHAPE

    def __init__(self, seed: int = 0, classes: int | None = 5):
        super().__init__()
        self.network, self.classes = Network(seed, classes=classes or 1), classes
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        self.batches: list[int] = []

    def forward(
        self, z: Tensor, t: Tensor, condition: Condition, *, taps: Collection[int] = ()
    ) -> BackboneOutput:
        self.batches.append(len(z))
        return BackboneOutput(self.network(z, t, condition.get("label")))

    def null(self, condition: Condition) -> Condition:
        if self.classes is None:
            raise UserError("this network is unconditional")
        return {"label": torch.full_like(condition["label"], self.classes)}
