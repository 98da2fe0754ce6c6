"""A network over text and a latent with the processes it was trained for: what training, cycles
and samplers all ask.

    latents    z_t = α x + σ ε, the cosine path α = cos(π t/2), σ = sin(π t/2)
    texts      masked, `latentsmith.diffusion.masked`
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from latentsmith.backbones.mmdit import MMDiTOutput, TextLatentNet
from latentsmith.diffusion.flow import GVPPath
from latentsmith.diffusion.masked import MaskedText
from latentsmith.diffusion.parametrization import Parametrization, convert
from latentsmith.diffusion.paths import Path

Weights = dict[str, Tensor]
"""name → what stands in the place of a parameter."""


@dataclass
class TextLatentModel:
    """A network with what its inputs and outputs mean.

    Attributes:
        network: over noised tokens and latents.
        process: of the text.
        predicts: what the latent output means.
        t_max: time of what counts as pure noise: below 1 for networks that predict noise, which
            at t = 1 say nothing of the data.
        path: of the latents.
        looks: samples the network has looked at so far, with and without gradient.
    """

    network: TextLatentNet
    process: MaskedText
    predicts: Parametrization = "data"
    t_max: float = 1.0
    path: Path = field(default_factory=GVPPath)
    looks: int = 0

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def __call__(
        self,
        tokens: Tensor,
        z: Tensor,
        t_text: Tensor,
        t_lat: Tensor,
        *,
        positions: Tensor | None = None,
        latent: bool = True,
        real: Tensor | None = None,
        weights: Weights | None = None,
    ) -> MMDiTOutput:
        """One look; see `TextLatentNet.forward`.

        Args:
            real: bool [B, L], places that hold text; None: all.
            weights: instead of the network's own of these names (detached: frozen).
        """
        self.looks += len(z)
        given = (tokens, z, t_text, t_lat)
        more = {"positions": positions, "latent": latent, "seen": real}
        if weights is None:
            return self.network(*given, **more)
        return functional_call(self.network, weights, given, more)

    def data(
        self,
        tokens: Tensor,
        z: Tensor,
        t_text: Tensor,
        t_lat: Tensor,
        *,
        real: Tensor | None = None,
        weights: Weights | None = None,
    ) -> Tensor:
        """The clean latents [B, …] it sees in z_t, float32 or wider."""
        out = self(tokens, z, t_text, t_lat, real=real, weights=weights).latent
        assert out is not None
        return convert(out, z, t_lat, self.path, self.predicts, "data", check=False)

    def latents_of(
        self,
        tokens: Tensor,
        noise: Tensor,
        *,
        real: Tensor | None = None,
        weights: Weights | None = None,
    ) -> Tensor:
        """T2L in one step: latents [B, …] of clean texts, from pure noise [B, …]. Tokens may be
        relaxed, [B, L, V]."""
        given = torch.zeros(len(noise), device=noise.device)
        return self.data(
            tokens, noise, given, torch.full_like(given, self.t_max), real=real, weights=weights
        )

    def text_losses(
        self,
        targets: Tensor,
        masked: Tensor,
        latents: Tensor,
        t_text: Tensor,
        *,
        weights: Weights | None = None,
    ) -> tuple[Tensor, Tensor]:
        """L2T: cross-entropy at masked places, given clean latents.

        Args:
            targets: clean texts int64 [B, L].
            masked: bool [B, L].
            latents: clean [B, …].

        Returns:
            (losses [M], flat positions [M]).
        """
        positions = masked.flatten().nonzero().squeeze(1)
        out = self(
            self.process.hide(targets, masked), latents, t_text, torch.zeros_like(t_text),
            positions=positions, latent=False, real=self.process.real(targets), weights=weights,
        )  # fmt: skip
        assert out.logits is not None
        return self.process.cross_entropies(out.logits, targets.flatten()[positions]), positions

    def absent_text(self, count: int) -> Tensor:
        """Texts that say nothing: all masked, int64 [count, L]."""
        shape = count, self.network.length
        return torch.full(shape, self.process.mask, device=self.device)


def parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """name → parameter, each once."""
    return dict(network.named_parameters())
