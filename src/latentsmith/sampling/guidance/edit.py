"""``edit``: guidance of edits by image and by text (Brooks et al. 2022, InstructPix2Pix, arXiv
2211.09800, equation 3).

    D = D(∅, ∅) + image (D(source, ∅) − D(∅, ∅)) + text (D(source, text) − D(source, ∅))
      = text D(source, text) + (image − text) D(source, ∅) + (1 − image) D(∅, ∅)

``image`` says how much is kept of the image, ``text`` how much the instruction changes. All three
in one forward; a term of weight 0 is not asked for.
"""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.config.schema import schema
from latentsmith.diffusion.denoiser import Denoise, Denoiser, Prediction
from latentsmith.errors import UserError
from latentsmith.sampling.guidance.base import GUIDANCE, GuidanceConfig, Together, no_weak
from latentsmith.sampling.guidance.rescaled import rescaled


@GUIDANCE.register("edit", help="edits: one scale for the image, one for the instruction")
@schema
class EditGuidanceConfig(GuidanceConfig):
    """Guidance of a model that is given an image to edit. Samples of the batch without one
    (``has_source`` 0) get classifier-free guidance of scale ``text``."""

    kind: Literal["edit"] = "edit"
    text: Annotated[float, Field(ge=0)] = 7.5
    """Scale of the instruction: 1 is the conditional model, 0 ignores it."""
    image: Annotated[float, Field(ge=0)] = 1.5
    """Scale of the image to edit: 1 is the conditional model, 0 ignores it but for the text's
    sake."""
    rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much of the gain in spread is taken back, see rescaled_cfg; 0 is plain guidance."""

    def bind(
        self, denoiser: Denoiser, condition: Condition, weak: Denoiser | None = None
    ) -> Denoise:
        """See `GuidanceConfig.bind`. Raises UserError when there is no image to edit, too."""
        no_weak(weak, self.kind)
        if "source" not in condition:
            raise UserError(
                "guidance=edit weighs an image to edit against a text, and the condition has no "
                "'source': use guidance=cfg"
            )
        if self.text == self.image == 1:
            return denoiser.bind(condition)
        backbone = denoiser.backbone
        condition = backbone.complete(condition)
        # the conditional one always: its variance and its spread are wanted
        conditions, weights = [condition], [self.text]
        if self.image != self.text:
            conditions.append(backbone.null_text(condition))
            weights.append(self.image - self.text)
        if self.image != 1:
            conditions.append(backbone.null(condition))
            weights.append(1 - self.image)
        ask = Together(denoiser, conditions)

        def denoise(z: Tensor, t: Tensor) -> Prediction:
            seen = ask(z, t)
            guided = _weighted(seen, weights)
            if self.rescale == 0:
                return guided
            return rescaled(guided, seen[0], z, t, backbone.predicts, self.rescale)

        return denoise


def _weighted(seen: list[Prediction], weights: list[float]) -> Prediction:
    """Sum of predictions whose weights sum to 1, with the first one's variance."""
    data, noise = seen[0].data * weights[0], seen[0].noise * weights[0]
    for one, weight in zip(seen[1:], weights[1:], strict=True):
        data, noise = data + weight * one.data, noise + weight * one.noise
    return replace(seen[0], data=data, noise=noise)
