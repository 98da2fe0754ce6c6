"""The latent cycle, latent → text → latent (L2T2L).

    ŷ = decode(z)                       a few steps, without gradient, own random stream
    L = |G_z(ŷ; ε) − z|²                mean over dimensions, over samples whose ŷ is confident

ŷ is a pseudo-label (dual learning: He et al. 2016; back-translation). One step alone would give
tokens that do not fit each other: marginals. ``soft`` and ``st_gumbel`` let the loss reach L2T
through the last step's tokens.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from latentsmith.config.schema import schema
from latentsmith.losses.cycle.freeze import Freeze
from latentsmith.losses.cycle.term import TermConfig

TextBridge = Literal["stop", "soft", "st_gumbel"]
LatentSource = Literal["model", "shuffled", "data"]


@schema
class LatentCycleConfig(TermConfig):
    """Latent → text → latent."""

    steps: Annotated[int, Field(ge=1)] = 4
    """Steps of decoding the text; 1: all places at once, which do not fit each other."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Of the decoding; 0: the likeliest tokens."""
    confidence: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Leave out texts with a mean probability of their tokens (geometric) below this; empty texts
    always are."""
    bridge: TextBridge = "stop"
    """Gradient into L2T: stop (none), soft (probabilities in the place of tokens) or st_gumbel
    (straight-through Gumbel: tokens forwards, probabilities backwards), of the last step."""
    tau: Annotated[float, Field(gt=0)] = 1.0
    """soft, st_gumbel: temperature of the relaxed tokens."""
    freeze: Freeze = "detach"
    """What learns from it: detach (all), latent_side, exclusive (what L2T does not depend on) or
    separate (the latent network; needs share=none)."""
    source: LatentSource = "model"
    """What T2L reads: L2T's text (model); controls: another sample's (shuffled), the true text
    (data)."""
    repeats: Annotated[int, Field(ge=1)] = 1
    """Draws of the term in a step; above 1 to match a control's compute."""

    def __post_init__(self) -> None:
        if self.bridge != "stop" and (self.freeze != "detach" or self.source != "model"):
            raise ValueError(
                f"bridge={self.bridge} lets L2T learn through its own text: set freeze=detach and "
                "source=model, or bridge=stop"
            )


def relaxed(logits: Tensor, bridge: TextBridge, tau: float, rng: torch.Generator) -> Tensor:
    """Token weights [M, V] that sum to 1, with gradient: softmax(logits/τ), or one-hot forwards
    (straight-through Gumbel-softmax: Jang et al. 2017, arXiv 1611.01144).

    Args:
        logits: [M, V], −∞ at ids that are never said.
    """
    if bridge == "soft":
        return (logits / tau).softmax(-1)
    u = torch.rand(logits.shape, generator=rng, device=logits.device, dtype=torch.float64)
    noisy = (logits - (-u.log()).log().to(logits)) / tau
    soft = noisy.softmax(-1)
    hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft)
    return hard - soft.detach() + soft


def kept_mse(guess: Tensor, data: Tensor, keep: Tensor) -> Tensor:
    """Mean squared error per dimension over the samples kept (bool [B]); 0, with a gradient of 0,
    without any."""
    errors = (guess - data).square().flatten(1).mean(1)
    return torch.where(keep, errors, 0.0).sum() / keep.sum().clamp(min=1)
