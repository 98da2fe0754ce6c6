"""``cfg``: classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

D = D_null + scale (D_cond − D_null)
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.config.schema import schema
from latentsmith.diffusion.denoiser import Denoise, Denoiser, Prediction
from latentsmith.sampling.guidance.base import GUIDANCE, GuidanceConfig, Pair, no_weak


@GUIDANCE.register("cfg", help="classifier-free guidance")
@schema
class CfgConfig(GuidanceConfig):
    """Classifier-free guidance."""

    kind: Literal["cfg"] = "cfg"
    scale: Annotated[float, Field(ge=0)] = 1.5
    """1 is the conditional model, 0 the unconditional one."""
    channels: Annotated[int, Field(ge=1)] | None = None
    """Guide the first channels only, the others are the conditional model's. Null: all."""

    def bind(
        self, denoiser: Denoiser, condition: Condition, weak: Denoiser | None = None
    ) -> Denoise:
        """See `GuidanceConfig.bind`."""
        no_weak(weak, self.kind)
        if self.scale == 1:
            return denoiser.bind(condition)
        pair = Pair(denoiser, condition)

        def denoise(z: Tensor, t: Tensor) -> Prediction:
            conditional, unconditional = pair(z, t)
            guided = unconditional.blend(conditional, self.scale)
            if self.channels is not None:
                guided.data[:, self.channels :] = conditional.data[:, self.channels :]
                guided.noise[:, self.channels :] = conditional.noise[:, self.channels :]
            return guided

        return denoise
