"""``none``: the conditional model as it is."""

from typing import Literal

from latentsmith.backbones.base import Condition
from latentsmith.config.schema import schema
from latentsmith.diffusion.denoiser import Denoise, Denoiser
from latentsmith.sampling.guidance.base import GUIDANCE, GuidanceConfig, no_weak


@GUIDANCE.register("none", help="the (conditional) model as it is")
@schema
class NoGuidanceConfig(GuidanceConfig):
    """No guidance."""

    kind: Literal["none"] = "none"

    def bind(
        self, denoiser: Denoiser, condition: Condition, weak: Denoiser | None = None
    ) -> Denoise:
        """See `GuidanceConfig.bind`."""
        no_weak(weak, self.kind)
        return denoiser.bind(condition)
