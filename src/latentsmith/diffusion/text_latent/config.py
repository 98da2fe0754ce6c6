"""Settings of training on text and latents."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.diffusion.masked import TextLoss
from latentsmith.diffusion.text_latent.modes import ModesConfig
from latentsmith.losses.cycle.latent import LatentCycleConfig
from latentsmith.losses.cycle.text import TextCycleConfig
from latentsmith.losses.priors.base import PRIORS, PriorConfig
from latentsmith.losses.priors.none import NoPriorConfig
from latentsmith.registry import OneOf

LatentPredicts = Literal["data", "v", "noise"]
NOISE_T_MAX = 0.98
"""A prediction of the noise says x̂ = (z − σ ε̂)/α: at t = 0.98 its error counts 32-fold, at 1 it
says nothing."""


@schema
class CyclesConfig:
    """Losses over both directions."""

    t2l2t: TextCycleConfig = field(default_factory=TextCycleConfig)
    """Text → latent → text."""
    l2t2l: LatentCycleConfig = field(default_factory=LatentCycleConfig)
    """Latent → text → latent."""
    l2t2t: Any = None
    """No cycle: see l2t2l."""

    def __post_init__(self) -> None:
        if self.l2t2t is not None:
            raise ValueError(
                "l2t2t is no cycle: it ends in a text and began with a latent. The latent cycle "
                "is l2t2l, the text cycle t2l2t"
            )


@schema
class TextLatentConfig:
    """What a network over text and latents learns."""

    modes: ModesConfig = field(default_factory=ModesConfig)
    """Which modes it sees."""
    text_weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor of the text's loss, nats per masked token."""
    latent_weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor of the latents' loss, squared error per dimension: about 1 at the start."""
    text_loss: TextLoss = "mean"
    """mean over masked tokens; elbo, weighted by 1/p(t): the bound; clip: the same, by at most
    5."""
    predicts: LatentPredicts = "data"
    """What the latent output means, and what is compared: data, v or noise (the last with t_max at
    most 0.98)."""
    t_max: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Time of the noisiest latent."""
    gamma: Annotated[float, Field(gt=0)] = 5.0
    """min-SNR: the SNR above which an error of the data counts no more. At t = t_max the weight is
    1."""
    cycles: CyclesConfig = field(default_factory=CyclesConfig)
    """Losses over both directions."""
    prior: Annotated[PriorConfig, OneOf(PRIORS)] = field(default_factory=NoPriorConfig)
    """Loss on how T2L's latents are distributed."""

    def __post_init__(self) -> None:
        if self.predicts == "noise" and self.t_max > NOISE_T_MAX:
            raise ValueError(
                f"a network that predicts noise learns nothing of the data at t = {self.t_max:g}, "
                f"where T2L starts: set t_max to at most {NOISE_T_MAX}, or predicts=data"
            )
        marginals = "unconditional" in self.modes.seen and self.modes.absent > 0
        if self.prior.kind == "diffusion" and self.prior.weight > 0 and not marginals:
            raise ValueError(
                "prior.kind=diffusion asks the network for latents without a text: train some "
                "with modes.mode=random or l2t+t2l+unconditional, and modes.absent above 0"
            )
