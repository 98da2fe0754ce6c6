"""``rescaled_cfg``: guidance that keeps the conditional prediction's spread (Lin et al. 2024,
arXiv 2305.08891, section 3.4).

    m = m_null + scale (m_cond − m_null),   m' = φ m · std(m_cond) / std(m) + (1 − φ) m

Large scales blow predictions up, which over-exposes images. m is what the network predicts (v in
the paper), std over all numbers of one sample.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.config.schema import schema
from latentsmith.diffusion.denoiser import Denoise, Denoiser, Prediction
from latentsmith.diffusion.parametrization import Parametrization
from latentsmith.sampling.guidance.base import GUIDANCE, GuidanceConfig, Pair, no_weak


@GUIDANCE.register("rescaled_cfg", help="classifier-free guidance without its gain in spread")
@schema
class RescaledCfgConfig(GuidanceConfig):
    """Classifier-free guidance, rescaled."""

    kind: Literal["rescaled_cfg"] = "rescaled_cfg"
    scale: Annotated[float, Field(ge=0)] = 4.0
    """1 is the conditional model, 0 the unconditional one."""
    rescale: Annotated[float, Field(ge=0, le=1)] = 0.7
    """How much of the spread is taken back; 0 is plain classifier-free guidance."""

    def bind(
        self, denoiser: Denoiser, condition: Condition, weak: Denoiser | None = None
    ) -> Denoise:
        """See `GuidanceConfig.bind`."""
        no_weak(weak, self.kind)
        if self.scale == 1:
            return denoiser.bind(condition)
        pair, said = Pair(denoiser, condition), denoiser.backbone.predicts

        def denoise(z: Tensor, t: Tensor) -> Prediction:
            conditional, unconditional = pair(z, t)
            guided = unconditional.blend(conditional, self.scale)
            return rescaled(guided, conditional, z, t, said, self.rescale)

        return denoise


def rescaled(
    guided: Prediction,
    conditional: Prediction,
    z: Tensor,
    t: Tensor,
    said: Parametrization,
    rescale: float,
) -> Prediction:
    """``guided`` with a share of its gain in spread taken back.

    Args:
        guided: of z [B, …] at t [B].
        conditional: of the same, whose spread is right.
        said: what the network predicts.
        rescale: the share φ, 0 to 1.
    """
    value = guided.said_as(said)
    ratio = _spread(conditional.said_as(said)) / _spread(value)
    factor = rescale * ratio + (1 - rescale)
    return Prediction.of(factor * value, z, t, guided.path, said, variance=guided.variance)


def _spread(value: Tensor) -> Tensor:
    """Standard deviation of each sample, [B, 1, …]; 1 where it is 0."""
    std = value.flatten(1).std(1).view(-1, *[1] * (value.ndim - 1))
    return std.where(std > 0, 1)
