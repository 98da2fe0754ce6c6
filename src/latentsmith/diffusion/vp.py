"""``vp``: the variance-preserving path of a discrete DDPM schedule, made continuous.

    ᾱ_i = Π_{j ≤ i} (1 − β_j)    α² = ᾱ    σ² = 1 − ᾱ    step i is t = (i + 1) / T, t = 0 is ᾱ = 1

linear         β from beta_start to beta_end                     (Ho et al. 2020; DiT)
scaled_linear  √β from √beta_start to √beta_end                  (Rombach et al. 2022; SD)
cosine         ᾱ(s) = cos²((s + 0.008) / 1.008 · π/2), β ≤ 0.999 (Nichol & Dhariwal 2021)

Zero terminal SNR moves √ᾱ linearly so that the last is 0 and the first stays (Lin et al. 2024,
arXiv 2305.08891, algorithm 1).

Between the steps the *angle* θ = atan2(σ, α) is linear in t: α = cos θ, σ = sin θ. Exact on the
steps, α² + σ² = 1 everywhere, the SNR falls strictly, and α' = −σ θ', σ' = α θ' are its true
derivatives (so velocity = θ' v); at a step, the one from its lower side. Interpolating log ᾱ
instead would break at ᾱ = 0.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.diffusion.paths import PATHS, Path, PathConfig, precise
from latentsmith.errors import UserError

Schedule = Literal["linear", "scaled_linear", "cosine"]

ON_STEP = 2.4e-7
"""Times nearer than this to a step are on it: four times float32's rounding of a time."""


def betas(schedule: Schedule, timesteps: int, start: float, end: float) -> Tensor:
    """β_i, float64 [T]. ``start`` and ``end`` play no part in ``cosine``.

    Raises:
        UserError: an unknown schedule.
    """
    wide = torch.float64
    if schedule == "linear":
        return torch.linspace(start, end, timesteps, dtype=wide)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, timesteps, dtype=wide).square()
    if schedule == "cosine":
        s = torch.arange(timesteps + 1, dtype=wide) / timesteps
        bar = ((s + 0.008) / 1.008 * math.pi / 2).cos().square()
        return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    raise UserError(
        f"no noise schedule {schedule!r}: known are linear, scaled_linear and cosine (diffusers' "
        "squaredcos_cap_v2); others can be given as trained_betas"
    )


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """ᾱ [T] rescaled so that the last is exactly 0 and the first unchanged (Lin et al. 2024)."""
    root = alphas_cumprod.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * (first / (first - last))).square()


class VPPath(Path):
    """A discrete schedule and the continuous path through it.

    Args:
        alphas_cumprod: ᾱ_i, strictly falling, [T].

    Attributes:
        alphas_cumprod: float64 [T], on the CPU.
        timesteps: T.

    Raises:
        UserError: ᾱ does not fall strictly from below 1 to at least 0.
    """

    def __init__(self, alphas_cumprod: Tensor):
        bar = alphas_cumprod.detach().double().cpu()
        edges = torch.cat([bar.new_ones(1), bar])
        if bar.ndim != 1 or not bool((edges.diff() < 0).all()) or float(bar[-1]) < 0:
            raise UserError(
                "a noise schedule must leave less of the data at every step: its cumulative "
                f"products of 1 − beta are not strictly falling in (1, 0] ({bar.tolist()[:3]} …)"
            )
        self.alphas_cumprod = bar
        self.timesteps = len(bar)
        alpha, sigma = edges.sqrt(), (1 - edges).sqrt()
        self._knots = torch.atan2(sigma, alpha)  # θ at t = 0, 1/T, …, 1
        self._on: dict[torch.device, Tensor] = {}

    def index(self, t: Tensor) -> Tensor:
        """The step i nearest to each time, int64, in [0, T)."""
        return (precise(t) * self.timesteps).round().long().sub(1).clamp(0, self.timesteps - 1)

    def time(self, i: Tensor | int) -> Tensor:
        """(i + 1) / T, float64."""
        return torch.as_tensor(i).double().add(1) / self.timesteps

    def on_grid(self, t: Tensor) -> Tensor:
        """The step at or after ``t`` (the first for t = 0): what a discrete training sees."""
        upper = self._position(t).ceil().clamp(1, self.timesteps)
        return (upper / self.timesteps).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        return self._cos(self._at(t)[0]).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return self._at(t)[0].sin().to(t.dtype)

    def d_alpha(self, t: Tensor) -> Tensor:
        theta, slope = self._at(t)
        return (-theta.sin() * slope).to(t.dtype)

    def d_sigma(self, t: Tensor) -> Tensor:
        theta, slope = self._at(t)
        return (self._cos(theta) * slope).to(t.dtype)

    def _cos(self, theta: Tensor) -> Tensor:
        return (math.pi / 2 - theta).sin()  # exactly 0 at π/2, where cos is 6e-17

    def _position(self, t: Tensor) -> Tensor:
        """t T, exactly whole where t is a step up to float32's rounding."""
        position = precise(t) * self.timesteps
        near = position.round()
        return torch.where((position - near).abs() <= ON_STEP * self.timesteps, near, position)

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(θ, θ') at each time."""
        position = self._position(t)
        upper = position.detach().ceil().clamp(1, self.timesteps).long()
        table = self._table(t.device, position.dtype)
        low, high = table[upper - 1], table[upper]
        share = position - (upper - 1)
        theta = low * (1 - share) + high * share  # exact at both ends
        return theta, (high - low) * self.timesteps

    def _table(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        if device not in self._on:
            self._on[device] = self._knots.to(device, dtype)
        return self._on[device]


@PATHS.register("vp", help="a DDPM noise schedule (DiT, Stable Diffusion), continuous in time")
@schema
class VPPathConfig(PathConfig):
    """The path of a discrete DDPM schedule."""

    kind: Literal["vp"] = "vp"
    schedule: Schedule = "linear"
    """How beta grows: linear (DDPM, DiT), scaled_linear (Stable Diffusion) or cosine (improved
    DDPM)."""
    timesteps: Annotated[int, Field(ge=2)] = 1000
    """Discrete steps T."""
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """First beta; plays no part in cosine. Stable Diffusion: 0.00085."""
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Last beta; plays no part in cosine. Stable Diffusion: 0.012."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that its last step is pure noise. Needs a network that predicts v,
    velocity or data: the noise then says nothing of the data there."""
    trained_betas: list[Annotated[float, Field(gt=0, le=1)]] | None = None
    """All betas by name, instead of a schedule."""

    def __post_init__(self) -> None:
        if self.trained_betas is not None and len(self.trained_betas) != self.timesteps:
            raise ValueError(
                f"trained_betas has {len(self.trained_betas)} entries and timesteps is "
                f"{self.timesteps}: they must agree"
            )

    def alphas_cumprod(self) -> Tensor:
        """ᾱ, float64 [T]."""
        if self.trained_betas is not None:
            beta = torch.tensor(self.trained_betas, dtype=torch.float64)
        else:
            beta = betas(self.schedule, self.timesteps, self.beta_start, self.beta_end)
        bar = (1 - beta).cumprod(0)
        return zero_terminal_snr(bar) if self.zero_terminal_snr else bar

    def build(self) -> VPPath:
        """The path. Raises UserError for betas that are none."""
        return VPPath(self.alphas_cumprod())
