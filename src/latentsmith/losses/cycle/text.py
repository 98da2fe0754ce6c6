"""The text cycle, text → latent → text (T2L2T).

    ẑ = G_z(y; ε, t)                    T2L's prediction, from pure noise: no latent is needed, so a
                                        text alone will do
    b = bridge(ẑ)                       detach ẑ | through ẑ | scaled(a) a ẑ + (1 − a) sg ẑ
    L = CE(y | y_t, b) over masked places

With a frozen encoder and every text paired, this is L2T's own training on a noisier condition; its
controls are `source`: the same with the noise but not the model (``noise``), with another
estimator's latents (``given``), or with none of it (``data``: an additional pass of base training).
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.diffusion.text_latent.modes import Policy
from latentsmith.losses.cycle.freeze import Freeze
from latentsmith.losses.cycle.term import TermConfig

Bridge = Literal["detach", "through", "scaled"]
TextSource = Literal["model", "noise", "given", "data"]


@schema
class TextCycleConfig(TermConfig):
    """Text → latent → text."""

    bridge: Bridge = "detach"
    """Gradient from the text's loss into T2L's latent: detach (none), through (all), scaled
    (scale times)."""
    scale: Annotated[float, Field(ge=0, le=1)] = 0.1
    """scaled: factor of the gradient."""
    freeze: Freeze = "detach"
    """What learns from it: detach (all), text_side, exclusive (what T2L does not depend on) or
    separate (the text network; needs share=none)."""
    text_times: Policy = "full"
    """Times of the text that is read off the latent: full (all masked), random, mix."""
    latent_times: Policy = "full"
    """Time at which T2L predicts the latent: full (pure noise), random or mix; below t = 1 only
    for texts that have a latent."""
    source: TextSource = "model"
    """What the text is read off: T2L's latent (model); controls: the true latent moved at random
    as far as T2L's is off (noise), the batch's pseudo_latents (given), the true latent (data)."""
    repeats: Annotated[int, Field(ge=1)] = 1
    """Draws of the term in a step; above 1 to match a control's compute."""

    def __post_init__(self) -> None:
        if self.bridge != "detach" and self.freeze != "detach":
            raise ValueError(
                f"bridge={self.bridge} lets T2L learn from the text cycle, which "
                f"freeze={self.freeze} is to prevent: set bridge=detach or freeze=detach"
            )
        if self.bridge != "detach" and self.source != "model":
            raise ValueError(
                f"bridge={self.bridge} is for T2L's own latents, and source={self.source} gives "
                "others: set bridge=detach"
            )


def bridged(latent: Tensor, bridge: Bridge, scale: float) -> Tensor:
    """The latent as the second pass sees it: the same numbers, with as much gradient as said."""
    if bridge == "through":
        return latent
    if bridge == "detach":
        return latent.detach()
    return scale * latent + (1 - scale) * latent.detach()


def as_far_off(data: Tensor, guess: Tensor, noise: Tensor) -> Tensor:
    """``data`` [B, …] moved in the direction of ``noise`` by |guess − data| of each sample."""
    far = (guess - data).flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
    return data + far.view(-1, *[1] * (data.ndim - 1)) * noise
