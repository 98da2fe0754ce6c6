"""Which of text and latent is noised in a sample, and how much: one pair of times is the mode.

mode            t_text     t_lat      learns
unconditional   U          U          both; now and then one of them is all noise (t = 1), so that
                                      the marginals are learnt, for guidance and for priors
l2t             policy     0          the text, from the latent
t2l             0          policy     the latent, from the text

policy: ``full`` t = 1; ``random`` t uniform; ``mix`` t = 1 for a share of the samples. Generation
starts at t = 1, and a network that rarely saw it is poor there.

All samples of a batch are drawn the same numbers whatever their modes, and the modes are a tensor:
a batch of many modes goes through one tensor path, and gives each sample what a batch of its mode
alone would.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.errors import nearest

Policy = Literal["full", "random", "mix"]
Mode = Literal["unconditional", "l2t", "t2l"]

MODES: tuple[Mode, ...] = ("unconditional", "l2t", "t2l")
UNCONDITIONAL, L2T, T2L = range(3)
SCHEDULES = ("random", "sequential")


@schema
class Span:
    """Some optimizer steps in one mode."""

    mode: Mode
    """unconditional, l2t or t2l."""
    steps: Annotated[int, Field(ge=1)] = 1
    """Optimizer steps in a row."""


@schema
class ModesConfig:
    """Which modes a training sees."""

    mode: str = "random"
    """unconditional, l2t or t2l; several joined by + (l2t+t2l), each sample seen once in each;
    random, a mode for each sample; or sequential, modes in turns of optimizer steps."""
    weights: dict[Mode, Annotated[float, Field(ge=0)]] = field(
        default_factory=lambda: {"unconditional": 0.2, "l2t": 0.4, "t2l": 0.4}
    )
    """random: how often each mode is drawn."""
    granularity: Literal["sample", "batch"] = "sample"
    """random: a mode for each sample, or one for the batch."""
    sequence: list[Span] = field(
        default_factory=lambda: [Span(mode="l2t"), Span(mode="t2l"), Span(mode="unconditional")]
    )
    """sequential: the turns, over and over."""
    text_times: Policy = "random"
    """Times of the text in l2t: full (all masked), random or mix."""
    latent_times: Policy = "mix"
    """Times of the latent in t2l: full (pure noise), random or mix."""
    full_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """mix: share of samples at t = 1."""
    absent: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """unconditional: share of samples whose text is all masked, and share of others whose latent is
    pure noise."""

    def __post_init__(self) -> None:
        for part in self.mode.split("+"):
            single = "+" not in self.mode and part in SCHEDULES
            if part not in MODES and not single:
                raise ValueError(
                    f"there is no mode {part!r}{' to join' if '+' in self.mode else ''}. "
                    f"{nearest(part, [*MODES, *SCHEDULES])} Modes are {', '.join(MODES)}, several "
                    "of these joined by +, random and sequential"
                )
        if len(set(self.mode.split("+"))) < len(self.mode.split("+")):
            raise ValueError(f"mode {self.mode!r} names a mode twice: name each once")
        if self.mode == "random" and sum(self.weights.values()) <= 0:
            raise ValueError("mode=random needs a weight above 0: set weights.l2t=1")
        if self.mode == "sequential" and not self.sequence:
            raise ValueError("mode=sequential needs turns: set sequence=[{mode: l2t, steps: 1}]")

    @property
    def seen(self) -> set[str]:
        """The modes a training meets."""
        if self.mode == "random":
            return {name for name, weight in self.weights.items() if weight > 0}
        if self.mode == "sequential":
            return {span.mode for span in self.sequence}
        return set(self.mode.split("+"))


def mode_at(sequence: Sequence[Span], step: int) -> Mode:
    """The mode of an optimizer step: a function of its number alone, so resuming needs no state."""
    place = step % sum(span.steps for span in sequence)
    for span in sequence:
        if place < span.steps:
            return span.mode
        place -= span.steps
    raise ValueError("a sequence without turns has no modes")


def passes(
    config: ModesConfig, count: int, step: int, rng: torch.Generator
) -> list[tuple[str, Tensor]]:
    """How often a batch is seen in a step, and as what.

    Args:
        count: samples B.
        step: number of the optimizer step.
        rng: for ``random``.

    Returns:
        (name of the random streams, mode of each sample int64 [B]) of each time.
    """
    device = rng.device
    if config.mode == "random":
        weights = torch.tensor([config.weights.get(m, 0.0) for m in MODES], device=device)
        draws = count if config.granularity == "sample" else 1
        drawn = torch.multinomial(weights, draws, replacement=True, generator=rng)
        return [("random", drawn.expand(count))]
    names = config.mode.split("+")
    if config.mode == "sequential":
        names = [mode_at(config.sequence, step)]
    return [
        (name, torch.full((count,), MODES.index(name), device=device))  # type: ignore[arg-type]
        for name in names
    ]


def by_policy(policy: Policy, u: Tensor, coin: Tensor, full_share: float) -> Tensor:
    """Times [B] of uniform times ``u`` [B] and uniform ``coin`` [B]."""
    if policy == "random":
        return u
    if policy == "full":
        return torch.ones_like(u)
    return torch.where(coin < full_share, 1.0, u)


@dataclass(frozen=True)
class Uniforms:
    """A sample's draws that make its times, each [B]: of the text, of the latent, a coin."""

    text: Tensor
    latent: Tensor
    coin: Tensor


@dataclass(frozen=True)
class Times:
    """What samples are shown and taught: times and whether each part is scored, all [B]."""

    text: Tensor
    latent: Tensor
    learn_text: Tensor
    learn_latent: Tensor


def times_of(
    config: ModesConfig, modes: Tensor, draws: Uniforms, has_text: Tensor, has_latent: Tensor
) -> Times:
    """Times of samples in their modes.

    A sample without one of the two learns the other's marginal in ``unconditional`` (what is
    missing is at t = 1) and nothing in the conditional modes.

    Args:
        modes: int64 [B], places in `MODES`.
        has_text, has_latent: bool [B].
    """
    joint, l2t, t2l = (modes == m for m in (UNCONDITIONAL, L2T, T2L))
    text = by_policy(config.text_times, draws.text, draws.coin, config.full_share)
    latent = by_policy(config.latent_times, draws.latent, draws.coin, config.full_share)
    no_text = draws.coin < config.absent
    no_latent = (draws.coin < 2 * config.absent) & ~no_text
    text = torch.where(joint, torch.where(no_text, 1.0, draws.text), torch.where(l2t, text, 0.0))
    latent = torch.where(
        joint, torch.where(no_latent, 1.0, draws.latent), torch.where(t2l, latent, 0.0)
    )
    paired = has_text & has_latent
    return Times(
        text=torch.where(has_text, text, 1.0),
        latent=torch.where(has_latent, latent, 1.0),
        learn_text=torch.where(joint, has_text, l2t & paired),
        learn_latent=torch.where(joint, has_latent, t2l & paired),
    )
