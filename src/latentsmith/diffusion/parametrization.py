"""What a network's output means, and how one meaning follows from another.

z_t = α x + σ ε                       x: data, ε: standard normal noise
noise     ε
data      x
v         α ε − σ x                   (Salimans & Ho 2022, eq. 11)
velocity  α' x + σ' ε = dz/dt         (flow matching; t = 0 data, t = 1 noise)
score     −ε / σ                      (gradient of log p_t(z))

Each is A x + B ε. With z known, two such equations give x and ε, hence every other one, as long
as the determinant α B − σ A is not 0: noise (and score) say nothing of the data where α = 0, data
says nothing of the noise where σ = 0, and the score is infinite there. v and velocity always do.
"""

from typing import Literal

import torch
from torch import Tensor

from latentsmith.diffusion.paths import Path, precise, weight

Parametrization = Literal["noise", "data", "v", "velocity", "score"]

OF_NOISE = ("noise", "score")
"""Parametrizations that speak of the noise alone."""


def convert(
    value: Tensor,
    z: Tensor,
    t: Tensor,
    path: Path,
    source: Parametrization,
    target: Parametrization,
    *,
    check: bool = True,
) -> Tensor:
    """``value`` read as ``source``, said as ``target``.

    Args:
        value, z: [B, …]; half precision is widened to float32.
        t: [B] in [0, 1]. Coefficients are computed in float64.
        check: refuse times without an answer. Costs a wait for the device on paths that reach
            α = 0 or σ = 0, for the conversions concerned; without it the result there is
            infinite or NaN.

    Returns:
        [B, …], in the wider of the dtypes of ``value`` and ``z``, at least float32.

    Raises:
        ValueError: no answer at some ``t``: everything else from noise or score where α = 0, from
            data where σ = 0; score (in either direction) where σ = 0.
    """
    value, z = widen(value, z)
    if source == target:
        return value
    if check:
        check_times(t, path, source, target)
    on_z, on_value = coefficients(t, path, source, target)
    return weight(on_z, z) * z + weight(on_value, z) * value


def data_and_noise(
    value: Tensor, z: Tensor, t: Tensor, path: Path, source: Parametrization
) -> tuple[Tensor, Tensor]:
    """x and ε [B, …] from ``value`` read as ``source``: `convert` to both, with the coefficients
    computed once (samplers ask at every step).

    Raises ValueError as `convert` does.
    """
    value, z = widen(value, z)
    check_times(t, path, source, "data")
    check_times(t, path, source, "noise")
    t = precise(t)
    alpha, sigma = path.alpha(t), path.sigma(t)
    a, b = parts(t, path, source)
    if source == "score":
        value = weight(-sigma, value) * value
    # z = α x + σ ε and value = a x + b ε, solved for x and ε
    solved = torch.stack((b, -sigma, -a, alpha)) / (alpha * b - sigma * a)
    data_z, data_value, noise_z, noise_value = solved.to(z).view(4, -1, *[1] * (z.ndim - 1))
    data = value if source == "data" else torch.addcmul(data_z * z, data_value, value)
    noise = value if source in OF_NOISE else torch.addcmul(noise_z * z, noise_value, value)
    return data, noise


def widen(*tensors: Tensor) -> list[Tensor]:
    """Tensors in their widest common dtype, at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def coefficients(
    t: Tensor, path: Path, source: Parametrization, target: Parametrization
) -> tuple[Tensor, Tensor]:
    """(a, b), each like ``t`` in float64, of ``target = a z + b source``.

    Infinite or NaN where there is no answer, see `convert`.
    """
    t = precise(t)
    if source == target:
        return torch.zeros_like(t), torch.ones_like(t)
    alpha, sigma = path.alpha(t), path.sigma(t)
    a_source, b_source = parts(t, path, source)
    a_target, b_target = parts(t, path, target)
    if source in OF_NOISE and target in OF_NOISE:  # also where α = 0
        on_z, on_value = torch.zeros_like(t), torch.ones_like(t)
    else:
        determinant = alpha * b_source - sigma * a_source
        on_z = (a_target * b_source - b_target * a_source) / determinant
        on_value = (alpha * b_target - sigma * a_target) / determinant
    if source == "score":  # parts() gives −σ score, which is the noise
        on_value = -sigma * on_value
    if target == "score":
        on_z, on_value = -on_z / sigma, -on_value / sigma
    return on_z, on_value


def parts(t: Tensor, path: Path, parametrization: Parametrization) -> tuple[Tensor, Tensor]:
    """(A, B) of A x + B ε, each like ``t``; for the score, those of −σ score = ε."""
    if parametrization in OF_NOISE:
        return torch.zeros_like(t), torch.ones_like(t)
    if parametrization == "data":
        return torch.ones_like(t), torch.zeros_like(t)
    if parametrization == "v":
        return -path.sigma(t), path.alpha(t)
    return path.d_alpha(t), path.d_sigma(t)


def of_pair(
    data: Tensor,
    noise: Tensor,
    t: Tensor,
    path: Path,
    target: Parametrization,
    *,
    check: bool = True,
) -> Tensor:
    """``target`` [B, …] of known data and noise [B, …], such as what a training compares with.

    Raises ValueError for the score where σ = 0 (``check`` as for `convert`).
    """
    data, noise = widen(data, noise)
    if target == "data":
        return data
    if target == "noise":
        return noise
    t = precise(t)
    if target == "score":
        if check:
            check_times(t, path, "noise", "score")
        return noise / weight(-path.sigma(t), noise)
    a, b = parts(t, path, target)
    return weight(a, data) * data + weight(b, noise) * noise


def check_times(t: Tensor, path: Path, source: Parametrization, target: Parametrization) -> None:
    """Raises ValueError when ``source`` cannot be said as ``target`` at some ``t``, see `convert`.
    No wait for the device where the path leaves no doubt."""
    if source == target:
        return
    alpha_end, sigma_start = path.ends
    if source in OF_NOISE and target not in OF_NOISE and alpha_end == 0:
        _refuse(path.alpha(precise(t)) == 0, t, path, f"{target} from {source}", "α = 0")
    score_or_data = source == "data" or "score" in (source, target)
    if score_or_data and sigma_start == 0:
        _refuse(path.sigma(precise(t)) == 0, t, path, f"{target} from {source}", "σ = 0")


def _refuse(bad: Tensor, t: Tensor, path: Path, what: str, why: str) -> None:
    if bool(bad.any()):
        raise ValueError(
            f"{what} is undefined at t = {float(t[bad][0]):g} on {type(path).__name__}, where {why}"
            ": leave that time out, or let the network predict v or velocity"
        )
