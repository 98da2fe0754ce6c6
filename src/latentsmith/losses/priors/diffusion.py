"""``diffusion``: the network's own denoiser of latents without a text, as a prior of those with.

    L = E_t w(t) ½ |ẑ − sg x̄(α ẑ + σ e; text absent)|² / D        (gradient w (ẑ − x̄): ``sds``)

after score distillation (Poole et al. 2022, arXiv 2209.14988). x̄ is the moving average of the
network's weights, held apart: the loss moves ẑ and not its judge. ``full`` also differentiates x̄
with respect to what it sees.

A judge that knows nothing shrinks ẑ to 0. So the loss counts only while x̄ is better, on the batch's
true latents at the same times, than α z, the best guess for standard normal latents: the gate.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from latentsmith.config.schema import schema
from latentsmith.diffusion.objective import weights
from latentsmith.diffusion.paths import weight
from latentsmith.diffusion.text_latent.model import TextLatentModel, Weights, parameters
from latentsmith.losses.priors.base import PRIORS, Prior, PriorConfig, PriorInput, PriorValue
from latentsmith.losses.priors.reference import LatentReference
from latentsmith.utils.distributed import sum_over_ranks

LOW, HIGH = 0.02, 0.98
"""Times of the prior: at the ends the denoiser repeats its input, or says the mean."""
MEMORY = 0.99
"""Decay of the gate's running errors."""


class Averaged(nn.Module):
    """A moving average of a network's weights as buffers: saved with a training and put back with
    a skipped step, unlike a frozen copy.

    Args:
        network: whose weights.
        decay: per update, warmed up as that of `latentsmith.training.ema.EMA`.
    """

    updates: Tensor

    def __init__(self, network: nn.Module, decay: float):
        super().__init__()
        self.decay = decay
        self._names = {name: name.replace(".", "/") for name in parameters(network)}
        for name, p in parameters(network).items():
            self.register_buffer(self._names[name], p.detach().clone())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def weights(self) -> Weights:
        """name → average."""
        return {name: getattr(self, own) for name, own in self._names.items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network's weights."""
        n = int(self.updates)
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        held = self.weights()
        for name, p in parameters(network).items():
            held[name].lerp_(p, 1 - decay)
        self.updates += 1


class DiffusionPrior(Prior):
    """Distillation from the averaged unconditional denoiser; see the module.

    Args:
        model: the one that is trained.
        gradient: ``sds`` or ``full``.
        decay: of the average.
        gamma: of min-SNR, w(t).
    """

    joint = False
    errors: Tensor
    trivial: Tensor

    def __init__(
        self, model: TextLatentModel, gradient: Literal["sds", "full"], decay: float, gamma: float
    ):
        super().__init__()
        self.gradient, self.gamma = gradient, gamma
        self.average = Averaged(model.network, decay)
        self.register_buffer("errors", torch.ones(()))
        self.register_buffer("trivial", torch.zeros(()))

    def forward(self, guess: Tensor, seen: PriorInput) -> PriorValue:
        """See `Prior.forward`. Parts: ``prior_gate``, the denoiser's error over the trivial
        one's (below 1: the gate is open)."""
        if seen.training:
            self.average.update(seen.model.network)
        rng = seen.noise("time")
        u = torch.rand(len(guess), generator=rng, device=rng.device)
        t = LOW + (HIGH - LOW) * u
        noise = torch.randn(guess.shape, generator=seen.noise("noise"), device=guess.device)
        self._watch(seen, t, noise)
        ratio = self.errors / self.trivial.clamp(min=1e-12)
        if not len(guess):  # of this process's part of a batch that is not all texts
            return PriorValue(guess.sum(), {"prior_gate": ratio})
        z = seen.model.path.mix(guess, noise, t)
        with torch.set_grad_enabled(self.gradient == "full" and torch.is_grad_enabled()):
            judged = self._denoised(seen.model, z if self.gradient == "full" else z.detach(), t)
        w = weights(t, seen.model.path, "data", "min_snr", self.gamma).to(guess)
        losses = 0.5 * w * (guess - judged).square().flatten(1).mean(1)
        return PriorValue(losses.mean() * (ratio < 1), {"prior_gate": ratio.clone()})

    def _denoised(self, model: TextLatentModel, z: Tensor, t: Tensor) -> Tensor:
        """x̄ [n, …] of the average, without a text."""
        return model.data(
            model.absent_text(len(z)), z, torch.ones_like(t), t, weights=self.average.weights()
        )

    @torch.no_grad()
    def _watch(self, seen: PriorInput, t: Tensor, noise: Tensor) -> None:
        """Count this batch's true latents, those of all processes, into the gate."""
        if not seen.training:
            return
        rows = seen.has.nonzero().squeeze(1)
        sums = torch.zeros(3, device=noise.device)  # of both squared errors, and of rows
        if len(rows):
            data, t = seen.data[rows], t[rows]
            z = seen.model.path.mix(data, noise[rows], t)
            alpha = weight(seen.model.path.alpha(t.double()), data)
            guesses = (self._denoised(seen.model, z, t), alpha * z)
            means = torch.stack([(guess - data).square().mean().float() for guess in guesses])
            sums = torch.cat([means, means.new_ones(1)]) * len(rows)
        *totals, count = sum_over_ranks(sums)
        if float(count) == 0:
            return
        keep = MEMORY if float(self.trivial) > 0 else 0.0
        for running, total in zip((self.errors, self.trivial), totals, strict=True):
            running.mul_(keep).add_(total / count, alpha=1 - keep)


@PRIORS.register("diffusion", help="the network's own denoiser of latents, averaged and gated")
@schema
class DiffusionPriorConfig(PriorConfig):
    """The network's own denoiser of latents."""

    kind: Literal["diffusion"] = "diffusion"
    gradient: Literal["sds", "full"] = "sds"
    """sds: towards what the denoiser says; full: also through the denoiser."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Of the moving average that judges, per step."""
    gamma: Annotated[float, Field(gt=0)] = 5.0
    """Of min-SNR, which weighs the times."""

    def build(self, reference: LatentReference | None, model: TextLatentModel) -> DiffusionPrior:
        """The prior."""
        return DiffusionPrior(model, self.gradient, self.decay, self.gamma)
