"""``autoguidance``: guidance away from a worse version of the same model (Karras et al. 2024,
arXiv 2406.02507).

    D = D_weak + scale (D − D_weak)

The weak model is smaller, or trained less, on the same task, data and condition: what the two
disagree about is quality rather than class. Two networks: two forwards a step.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.config.schema import schema
from latentsmith.diffusion.denoiser import Denoise, Denoiser, Prediction
from latentsmith.errors import UserError
from latentsmith.sampling.guidance.base import GUIDANCE, GuidanceConfig


@GUIDANCE.register("autoguidance", help="away from a worse version of the model")
@schema
class AutoguidanceConfig(GuidanceConfig):
    """Guidance by a bad version of the model; also for unconditional models."""

    kind: Literal["autoguidance"] = "autoguidance"
    scale: Annotated[float, Field(ge=0)] = 1.5
    """1 is the model itself, 0 the weak one."""

    def bind(
        self, denoiser: Denoiser, condition: Condition, weak: Denoiser | None = None
    ) -> Denoise:
        """See `GuidanceConfig.bind`."""
        strong = denoiser.bind(condition)
        if self.scale == 1:
            return strong
        if weak is None:
            raise UserError(
                "autoguidance needs a weak model: an earlier checkpoint or a smaller network of "
                "the same training"
            )
        _check(denoiser, weak)
        worse = weak.bind(condition)

        def denoise(z: Tensor, t: Tensor) -> Prediction:
            return worse(z, t).blend(strong(z, t), self.scale)

        return denoise


def _check(denoiser: Denoiser, weak: Denoiser) -> None:
    """Raises UserError when the two models do not look at the same noisy latents."""
    shapes = denoiser.backbone.latent_shape, weak.backbone.latent_shape
    if shapes[0] != shapes[1]:
        raise UserError(f"the weak model's latents are {shapes[1]}, the model's {shapes[0]}")
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    for weight in ("alpha", "sigma"):
        ours, theirs = getattr(denoiser.path, weight)(t), getattr(weak.path, weight)(t)
        if not torch.allclose(ours, theirs):
            raise UserError(
                f"the weak model was trained on another path ({weight} at t = 0, ¼, … 1: "
                f"{theirs.tolist()}, the model's: {ours.tolist()}): use one of the same training"
            )
