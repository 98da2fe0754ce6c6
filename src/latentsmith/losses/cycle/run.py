"""The two cycles as terms of a training step: from samples to a loss and what to log."""

import torch
from torch import Tensor

from latentsmith.diffusion.text_latent.model import TextLatentModel, Weights
from latentsmith.diffusion.text_latent.modes import by_policy
from latentsmith.diffusion.text_latent.noised import SPREAD, Noise, Rows
from latentsmith.errors import UserError
from latentsmith.losses.cycle.freeze import detached, learning
from latentsmith.losses.cycle.latent import LatentCycleConfig, kept_mse, relaxed
from latentsmith.losses.cycle.text import TextCycleConfig, as_far_off, bridged
from latentsmith.sampling.text_latent.decode import confidence
from latentsmith.sampling.text_latent.tokens import Canvas, TextSamplerConfig, masked_odds

Parts = dict[str, Tensor]
MIX = 0.5
"""Policy ``mix``: share of samples at t = 1."""


def guess(
    model: TextLatentModel, config: TextCycleConfig, rows: Rows, noise: Noise, *, graph: bool
) -> Tensor:
    """T2L's latents [n, …] of texts.

    Args:
        config: its ``latent_times``. Texts without a latent are read from pure noise.
        graph: whether a gradient is wanted.
    """
    count, device = len(rows), rows.tokens.device
    u, coin = (SPREAD.sample(count, noise(n), model.path) for n in ("time", "coin"))
    t = by_policy(config.latent_times, u, coin, MIX)
    t = torch.where(rows.has_latent, t, 1.0) * model.t_max
    eps = torch.randn(rows.latents.shape, generator=noise("latent noise"), device=device)
    full = (t == model.t_max).view(-1, *[1] * (eps.ndim - 1))
    z = torch.where(full, eps, model.path.mix(rows.latents, eps, t))
    real = model.process.real(rows.tokens)
    with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
        return model.data(rows.tokens, z, torch.zeros_like(t), t, real=real)


class TextCycle:
    """Text → latent → text.

    Args:
        config: see `TextCycleConfig`.
        model: which learns.

    Raises:
        UserError: a freeze policy the network cannot keep.
    """

    def __init__(self, config: TextCycleConfig, model: TextLatentModel):
        self.config, self.model = config, model
        self.learns = learning(model.network, config.freeze, "text")

    @property
    def asks(self) -> bool:
        """Whether the term needs T2L's latents."""
        return self.config.source in ("model", "noise")

    def sees(self, rows: Rows) -> Tensor:
        """Which samples it can use, bool [B]."""
        paired = self.config.source in ("noise", "data")
        return rows.has_text & rows.has_latent if paired else rows.has_text

    def __call__(self, rows: Rows, guess: Tensor | None, noise: Noise) -> tuple[Tensor, Parts]:
        """Loss and parts of texts; ``guess`` [n, …] as `asks` says. Parts: ``cycle_text``."""
        c, model = self.config, self.model
        latents = self._condition(rows, guess, noise)
        u, coin = (
            SPREAD.sample(len(rows), noise(f"text {n}"), model.path) for n in ("time", "coin")
        )
        t = by_policy(c.text_times, u, coin, MIX)
        places = torch.rand(rows.tokens.shape, generator=noise("mask"), device=t.device)
        masked = model.process.masks(t, places, model.process.real(rows.tokens))
        losses, _ = model.text_losses(
            rows.tokens, masked, latents, t, weights=frozen(model, self.learns)
        )
        loss = losses.sum() / max(len(losses), 1)
        return loss, {"cycle_text": loss.detach()}

    def _condition(self, rows: Rows, guess: Tensor | None, noise: Noise) -> Tensor:
        c = self.config
        if c.source == "data":
            return rows.latents
        if c.source == "given":
            if rows.pseudo is None:
                raise UserError(
                    "cycles.t2l2t.source=given reads 'pseudo_latents' of the batch, and it has "
                    "none: join them to the data, or set source=model"
                )
            return rows.pseudo.to(rows.latents)
        assert guess is not None
        if c.source == "model":
            return bridged(guess, c.bridge, c.scale)
        drawn = torch.randn(guess.shape, generator=noise("direction"), device=guess.device)
        return as_far_off(rows.latents, guess.detach(), drawn)


class LatentCycle:
    """Latent → text → latent.

    Args:
        config: see `LatentCycleConfig`.
        model: which learns.

    Raises:
        UserError: a freeze policy the network cannot keep.
    """

    def __init__(self, config: LatentCycleConfig, model: TextLatentModel):
        self.config, self.model = config, model
        self.learns = learning(model.network, config.freeze, "latent")

    def sees(self, rows: Rows) -> Tensor:
        """Which samples it can use, bool [B]."""
        return rows.has_latent & rows.has_text if self.config.source == "data" else rows.has_latent

    def __call__(self, rows: Rows, noise: Noise) -> tuple[Tensor, Parts]:
        """Loss and parts of latents. Parts: ``cycle_latent``, ``cycle_kept`` (share of texts that
        were confident enough)."""
        model = self.model
        tokens, keep = self._texts(rows, noise)
        eps = torch.randn(
            rows.latents.shape, generator=noise("latent noise"), device=rows.latents.device
        )
        real = model.process.real(rows.tokens)
        back = model.latents_of(tokens, eps, real=real, weights=frozen(model, self.learns))
        loss = kept_mse(back, rows.latents, keep)
        return loss, {"cycle_latent": loss.detach(), "cycle_kept": keep.float().mean()}

    def _texts(self, rows: Rows, noise: Noise) -> tuple[Tensor, Tensor]:
        """Tokens [n, L], or weights [n, L, V], and which are kept [n]."""
        c, process = self.config, self.model.process
        if c.source == "data":
            return rows.tokens, rows.has_text
        given = None
        if process.known_length:  # places are told, as in every other decoding of such texts
            given = torch.where(rows.tokens == process.pad, rows.tokens, process.mask)
        canvas = Canvas.blank(self.model, len(rows), given)
        settings = TextSamplerConfig(steps=c.steps, temperature=c.temperature)
        with torch.no_grad():
            confidence(
                self.model, canvas, rows.latents, settings, noise("decoding"), 0.0,
                leave=0 if c.bridge == "stop" else 1,
            )  # fmt: skip
        if c.bridge == "stop":
            sample = canvas.sample(self.model)
            keep = self._keep(sample.tokens, sample.confidence)
            if c.source == "shuffled":
                return sample.tokens.roll(1, 0), keep.roll(1, 0)
            return sample.tokens, keep
        return self._relaxed(canvas, rows.latents, noise)

    def _relaxed(self, canvas: Canvas, latents: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """The last step's tokens as weights with gradient, the others as they are."""
        model, c = self.model, self.config
        masked = canvas.masked(model)
        length = masked.shape[1] if canvas.real is None else canvas.real.sum(1)
        t_text = model.process.time(masked.sum(1) / length).float()
        odds = masked_odds(
            model, canvas, latents, t_text, torch.zeros_like(t_text), 1.0, noise("decoding")
        )
        said = relaxed(odds.log_p().to(latents), c.bridge, c.tau, noise("gumbel"))  # [M, V]
        whole = torch.nn.functional.one_hot(canvas.tokens, model.process.vocabulary).to(said)
        weights = whole.flatten(0, 1).index_copy(0, odds.places, said).view(whole.shape)
        return weights, self._keep(weights.argmax(-1), torch.ones_like(t_text))

    def _keep(self, tokens: Tensor, sure: Tensor) -> Tensor:
        """Texts that say something, surely enough, bool [n]."""
        keep = sure >= self.config.confidence
        eos = self.model.process.eos
        return keep if eos is None else keep & (tokens[:, 0] != eos)


def frozen(model: TextLatentModel, learns: set[str]) -> Weights | None:
    """What stands in for the parameters that do not learn."""
    return detached(model.network, learns)
