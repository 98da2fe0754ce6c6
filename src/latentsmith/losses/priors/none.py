"""``none``: no prior."""

from typing import Literal

from latentsmith.config.schema import schema
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.losses.priors.base import PRIORS, PriorConfig
from latentsmith.losses.priors.reference import LatentReference


@PRIORS.register("none", help="no loss on how latents are distributed")
@schema
class NoPriorConfig(PriorConfig):
    """No prior."""

    kind: Literal["none"] = "none"

    def __post_init__(self) -> None:
        if self.weight > 0:
            raise ValueError(
                f"prior.weight={self.weight:g} without a prior: choose prior=moments, sliced_w2, "
                "mmd or diffusion"
            )

    def build(self, reference: LatentReference | None, model: TextLatentModel) -> None:
        """None."""
        return
