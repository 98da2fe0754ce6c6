"""A flow of the values of fields at points, as a diffusers model."""

from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from latentsmith.backbones.blocks.weights import Constant
from latentsmith.backbones.mixers.points import Points
from latentsmith.data.fields.coordinates import grid
from latentsmith.data.fields.noise import SmoothNoise
from latentsmith.export.shipped.field_parts import decoder_for


class LatentsmithFieldFlow(ModelMixin, ConfigMixin):
    """Draws of fields, values in [-1, 1] over the domain [-1, 1]^d, given what is known of them.

    Args:
        settings: of the flow; ``told``: "code", latent tokens of an autoencoder, or "inputs", the
            known values themselves.
        like: settings of that autoencoder.

    Attributes:
        noise: what a draw starts from, a smooth function of the coordinate; ``noise.shape`` is
            that of its weights.
    """

    @register_to_config
    def __init__(self, settings: dict[str, Any], like: dict[str, Any]):
        super().__init__()
        coded = settings["told"] == "code"
        self.side = round(like["latent"]["tokens"] ** (1 / like["dims"]))
        self.decoder = decoder_for(
            settings["decoder"],
            like,
            tokens=like["latent"]["channels"] if coded else like["channels"],
            mixer=settings["mixer"],
            denoises=True,
            bottleneck=settings["bottleneck"],
        )
        noise = settings["noise"]
        self.noise = SmoothNoise(
            like["channels"],
            like["dims"],
            band_limit=noise["band_limit"],
            features=noise["features"],
        )
        for module in self.modules():
            if isinstance(module, Constant):
                module._apply(lambda values: values)  # exact, whatever dtype was the default

    def forward(
        self, noisy: Tensor, t: Tensor, queries: Tensor, known: Tensor, where: Tensor
    ) -> Tensor:
        """The velocity [B, M, C] of noisy values [B, M, C] at ``queries`` [B or 1, M, d] and times
        [B] in [0, 1] (0 is data); ``known``, ``where``: as `draw`'s, [B, K, z] and [B or 1, K, d].
        """
        points = Points(where)
        context = self.decoder.context(known, points)
        return self.decoder(context, points, Points(queries), noisy=noisy, t=t)

    @torch.no_grad()
    def draw(
        self,
        known: Tensor,
        where: Tensor | None,
        queries: Tensor,
        steps: int = 20,
        *,
        heun: bool = True,
        weights: Tensor | None = None,
        generator: torch.Generator | None = None,
        chunk: int = 16384,
    ) -> Tensor:
        """Values [B, M, C] at ``queries`` [B or 1, M, d] or [M, d].

        Args:
            known: raw tokens [B, z, h, w] of a code; or values [B, N, C].
            where: coordinates [B or 1, N, d] of the known values; None: of a code.
            steps: of the solver, evenly in time; ``heun``: of second order, else Euler's.
            weights: of the noise, standard normal [B, *noise.shape]; None: drawn by ``generator``.
            chunk: queries at once, where each is drawn by itself.
        """
        queries = queries if queries.ndim == 3 else queries[None]
        if where is None:
            known = known.flatten(2).mT
            where = grid(self.side, queries.shape[-1], known.device)[None]
        if weights is None:
            weights = torch.randn(len(known), *self.noise.shape, generator=generator)
        points, step = Points(where), chunk if self.decoder.config.exact else queries.shape[1]
        context = self.decoder.context(known, points)
        parts = []
        for part in queries.split(step, dim=1):
            asked = Points(part)
            z = self.noise(weights, part).expand(len(known), -1, -1)

            def velocity(z: Tensor, t: float, asked: Points = asked) -> Tensor:
                times = torch.full((len(z),), t, device=z.device)
                return self.decoder(context, points, asked, noisy=z, t=times)

            parts.append(_solved(velocity, z, steps, heun))
        return torch.cat(parts, dim=1)


def _solved(velocity: Any, z: Tensor, steps: int, heun: bool) -> Tensor:
    """From noise to data along dz/dt; the last step is Euler's."""
    for t, s in pairwise(1 - k / steps for k in range(steps + 1)):
        here = velocity(z, t)
        ahead = z + (s - t) * here
        last = s <= 0 or not heun
        z = ahead if last else z + (s - t) / 2 * (here + velocity(ahead, s))
    return z
