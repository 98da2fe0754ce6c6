"""Training one network on text and latents, in both directions, with cycles and a prior.

    L = a L_text + b L_latent + w₁ L_t2l2t + w₂ L_l2t2l + w₃ R(ẑ)

    L_text     cross-entropy at masked places of the samples that are taught their text
    L_latent   w(t) |x̂ − x|²/D of those taught their latent (as v or ε: of these)

Every draw is from a named stream of the context, and each term has streams of its own: turning a
cycle on leaves every base draw as it is, so that arms of an ablation are paired. Terms without
weight are not computed.

In a semi-supervised batch, ``has_text`` and ``has_latent`` say which terms see a row: conditional
modes both, unconditional what is there, the text cycle and the prior texts, the latent cycle
latents.
"""

from typing import Any

import torch
from torch import Tensor

from latentsmith.backbones.mmdit import TextLatentNet
from latentsmith.diffusion.masked import MaskedText, nll_bound, text_loss
from latentsmith.diffusion.objective import denoising_losses, target_of, weights
from latentsmith.diffusion.text_latent.config import TextLatentConfig
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.diffusion.text_latent.modes import MODES, passes
from latentsmith.diffusion.text_latent.noised import Noise, Noised, Rows, joined, noised
from latentsmith.errors import UserError
from latentsmith.losses.cycle.run import LatentCycle, TextCycle, guess
from latentsmith.losses.priors.base import PriorInput
from latentsmith.losses.priors.reference import LatentReference
from latentsmith.training.task import Batch, Objective, StepContext, Task
from latentsmith.utils.distributed import gather_with_grad, is_distributed

Parts = dict[str, Tensor]
Term = tuple[float, Tensor, Parts]
"""Weight, loss with graph, what to log."""

OUTPUTS = (("text", "latent"), ("text",), ("latent",))
"""What each of `MODES` learns."""
OF = {
    output: [mode for mode, has in zip(MODES, OUTPUTS, strict=True) if output in has]
    for output in ("text", "latent")
}
"""Which modes learn each output."""


class TextLatentTask(Task):
    """Losses of a network over text and latents.

    Batches: ``tokens`` int64 [B, L], ``latents`` float32 [B, …], normalized; where some are
    missing ``has_text``, ``has_latent`` bool [B]; ``pseudo_latents`` [B, …] for a control.

    Args:
        network: trained in place.
        config: see `TextLatentConfig`.
        process: of the text.
        reference: statistics of the training's latents, for priors that compare with them.

    Raises:
        UserError: settings that cannot work together.
    """

    def __init__(
        self,
        network: TextLatentNet,
        config: TextLatentConfig,
        process: MaskedText,
        *,
        reference: LatentReference | None = None,
    ):
        super().__init__()
        if process.vocabulary != network.vocabulary:
            raise UserError(
                f"a network for {network.vocabulary} token ids and a text of {process.vocabulary}"
            )
        self.network, self.config = network, config
        self.model = TextLatentModel(network, process, config.predicts, config.t_max)
        self.t2l2t = TextCycle(config.cycles.t2l2t, self.model)
        self.l2t2l = LatentCycle(config.cycles.l2t2l, self.model)
        on = config.prior.weight > 0
        self.prior = config.prior.build(reference, self.model) if on else None

    def objectives(self) -> list[Objective]:
        """One, over the network."""
        return [Objective("text_latent", [p for p in self.parameters() if p.requires_grad])]

    def compile_targets(self) -> list[torch.nn.Module]:
        """The network."""
        return [self.network]

    def shard_blocks(self) -> list[torch.nn.Module]:
        """None. Cycles run the network with some of its weights detached."""
        return []

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> Parts:
        """Loss of one micro-batch.

        Parts: ``text`` (nats per masked token), ``latent`` (squared error per dimension, without
        weights), those of the terms that are on (``cycle_text``, ``cycle_latent``, ``cycle_kept``,
        ``prior``, ``prior_null``, ``prior_gate``, ``guess_power``: |ẑ|²/D), and ``forwards``,
        looks of the network per sample, those without gradient counted too.
        """
        rows, before = Rows.of(batch, self.model), self.model.looks
        step = optimizer_step(ctx, len(rows))
        terms = self._base(rows, ctx, step) + self._terms(rows, ctx, step)
        if not terms:
            raise UserError(
                f"no loss has weight {ctx.progress:.0%} into the training: set text_weight or "
                "latent_weight above 0, or start a cycle or prior at once (warmup=0, ramp=0)"
            )
        total = torch.stack([weight * loss for weight, loss, _ in terms]).sum()
        looks = (self.model.looks - before) / len(rows)
        forwards = torch.tensor(looks, device=total.device)
        return {"loss": total, **averaged(terms), "forwards": forwards}

    # Base ----------------------------------------------------------------------------------------

    def _base(self, rows: Rows, ctx: StepContext, step: int) -> list[Term]:
        c = self.config
        if not any(self._wanted()):
            return []
        seen = passes(c.modes, len(rows), step, ctx.noise("modes"))
        shown = [self._noised(rows, modes, named(ctx, stream)) for stream, modes in seen]
        return [(1.0, *self._scored(joined(shown)))]

    def _noised(self, rows: Rows, modes: Tensor, noise: Noise) -> Noised:
        """A mask too many would spoil the weighted losses' bound; a sample without any teaches the
        mean nothing."""
        forced = self.config.text_loss == "mean"
        return noised(rows, modes, self.config.modes, self.model, noise, at_least_one=forced)

    def _wanted(self) -> tuple[bool, bool]:
        """Whether the base loss has a text's and a latent's part: of the settings alone, so that
        every step trains the same parameters."""
        c = self.config
        text, latent = (bool(c.modes.seen & set(OF[name])) for name in ("text", "latent"))
        return text and c.text_weight > 0, latent and c.latent_weight > 0

    def _scored(self, shown: Noised, *, every: bool = False) -> tuple[Tensor, Parts]:
        """Weighted base loss of what is shown, and its parts. ``every``: ask for both outputs,
        also where no mode of the training has one."""
        c, process = self.config, self.model.process
        text, latent = (True, True) if every else self._wanted()
        places = shown.scored.flatten().nonzero().squeeze(1)
        out = self.model(
            process.hide(shown.tokens, shown.masked), shown.z, shown.t_text, shown.t_lat,
            positions=places if text else None, latent=latent, real=process.real(shown.tokens),
        )  # fmt: skip
        total, parts = torch.zeros((), device=shown.z.device), dict[str, Tensor]()
        if out.logits is not None:
            losses = process.cross_entropies(out.logits, shown.tokens.flatten()[places])
            loss = self._text(losses, places, shown)
            total = total + c.text_weight * loss
            parts["text"] = losses.detach().sum() / max(len(losses), 1)
        if out.latent is not None:
            loss, parts["latent"] = self._latent(out.latent, shown)
            total = total + c.latent_weight * loss
        return total, parts

    def _text(self, losses: Tensor, places: Tensor, shown: Noised) -> Tensor:
        length = shown.tokens.shape[1]
        real = self.model.process.real(shown.tokens)
        each = length if real is None else real.sum(1)
        count = int((shown.learn_text * each).sum())
        share = self.model.process.share(shown.t_text)[places // length]
        return text_loss(losses, share, self.config.text_loss, count)

    def _latent(self, output: Tensor, shown: Noised) -> tuple[Tensor, Tensor]:
        """Weighted loss, and the mean error without weights, of samples that learn a latent."""
        c, path = self.config, self.model.path
        target = target_of(shown.data, shown.noise, shown.t_lat, path, c.predicts)
        errors = denoising_losses(
            output, target, shown.z, shown.t_lat, path, c.predicts, c.predicts
        )
        full = shown.t_lat >= c.t_max  # min-SNR's weight of pure noise is 0, where T2L starts
        w = torch.where(full, 1.0, weights(shown.t_lat, path, c.predicts, "min_snr", c.gamma))
        learn = shown.learn_latent
        count = learn.sum().clamp(min=1)
        loss = torch.where(learn, w.to(errors) * errors, 0.0).sum() / count
        return loss, torch.where(learn, errors.detach(), 0.0).sum() / count

    # Cycles and prior ----------------------------------------------------------------------------

    def _terms(self, rows: Rows, ctx: StepContext, step: int) -> list[Term]:
        """Every term that has weight at this step and rows to see."""
        c = self.config
        text, latent, prior = (
            term.weight_at(ctx.progress, step) for term in (c.cycles.t2l2t, c.cycles.l2t2l, c.prior)
        )
        found: list[Term] = []
        if text or prior:
            texts = rows.where(self.t2l2t.sees(rows))
            if len(texts):
                found += self._of_texts(texts, text, prior, ctx)
            elif prior and is_distributed():
                found.append((prior, *self._judged(texts, self._no_guess(texts), ctx)))
        if latent:
            latents, repeats = rows.where(self.l2t2l.sees(rows)), c.cycles.l2t2l.repeats
            if len(latents):
                for k in range(repeats):
                    loss, parts = self.l2t2l(latents, named(ctx, f"l2t2l/{k}"))
                    found.append((latent / repeats, loss, parts))
        return found

    def _of_texts(self, rows: Rows, text: float, prior: float, ctx: StepContext) -> list[Term]:
        """The text cycle, where its weight ``text`` is above 0, and the prior on its latents."""
        cycle, found = self.t2l2t, list[Term]()
        repeats = cycle.config.repeats if text else 1
        for k in range(repeats):
            noise, judged = named(ctx, f"t2l2t/{k}"), prior > 0 and k == 0
            z = None
            if judged or (text and cycle.asks):
                graph = judged or (cycle.config.bridge != "detach" and text > 0)
                z = guess(self.model, cycle.config, rows, noise, graph=graph)
            if judged and z is not None:
                found.append((prior, *self._judged(rows, z, ctx)))
            if text:
                found.append((text / repeats, *cycle(rows, z, noise)))
        return found

    def _no_guess(self, texts: Rows) -> Tensor:
        """T2L's latents of no texts [0, …], with the gradient that other processes will gather."""
        anything = next(p for p in self.network.parameters() if p.requires_grad)
        return texts.latents + 0 * anything.sum()

    def _judged(self, rows: Rows, z: Tensor, ctx: StepContext) -> tuple[Tensor, Parts]:
        """The prior of T2L's latents, before any bridge; of a joint one, of all processes'."""
        assert self.prior is not None
        data, has, guess = rows.latents, rows.has_latent, z
        if self.prior.joint:
            data, has, guess = (gather_with_grad(x) for x in (data, has, guess))
        training = torch.is_grad_enabled() and not ctx.fixed_noise
        value = self.prior(guess, PriorInput(data, has, self.model, named(ctx, "prior"), training))
        power = z.detach().square().sum() / max(z.numel(), 1)
        return value.loss, {"prior": value.loss.detach(), "guess_power": power, **value.parts}

    # Looking at it -------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self, batch: Batch, ctx: StepContext) -> Parts:
        """Every sample in every mode, on fixed noise and times, whatever the training's modes.

        Parts: ``l2t/text``, ``t2l/latent``, ``unconditional/text`` and ``/latent`` as `forward`'s
        ``text`` and ``latent``; ``t2l/full``, T2L's squared error per dimension from pure noise,
        and ``t2l/cosine`` of the same; ``nll``, the bound in nats per token, given the latent;
        ``loss``, of the modes that are trained.
        """
        rows, parts = Rows.of(batch, self.model), dict[str, Tensor]()
        losses = []
        for number, name in enumerate(MODES):
            modes = torch.full((len(rows),), number, device=rows.tokens.device)
            loss, found = self._scored(self._noised(rows, modes, named(ctx, name)), every=True)
            parts |= {f"{name}/{n}": v for n, v in found.items() if n in OUTPUTS[number]}
            if name in self.config.modes.seen:
                losses.append(loss)
        paired = rows.where(rows.has_text & rows.has_latent)
        if len(paired):
            parts |= self._paired(paired, ctx)
        return {"loss": torch.stack(losses).mean(), **parts}

    def _paired(self, rows: Rows, ctx: StepContext) -> Parts:
        """What `validate` says of both directions as they are used."""
        model, real = self.model, self.model.process.real(rows.tokens)
        noise = torch.randn(
            rows.latents.shape, generator=ctx.noise("full noise"), device=rows.latents.device
        )
        z = model.latents_of(rows.tokens, noise, real=real)
        cosine = torch.cosine_similarity(z.flatten(1), rows.latents.flatten(1)).mean()
        length = rows.tokens.numel() if real is None else real.sum()
        bound = text_bound(model, rows.tokens, rows.latents, ctx.noise("bound"), draws=4)
        return {
            "t2l/full": (z - rows.latents).square().mean(),
            "t2l/cosine": cosine,
            "nll": bound.sum() / length,
        }

    def save_pretrained(self, folder: Any) -> None:
        """The network, see `latentsmith.diffusion.text_latent.saved`."""
        from latentsmith.diffusion.text_latent.saved import save_model

        save_model(self.model, folder)


def named(ctx: StepContext, prefix: str) -> Noise:
    """The context's streams under ``prefix``."""
    return lambda name: ctx.noise(f"{prefix}/{name}")


def optimizer_step(ctx: StepContext, rows: int) -> int:
    """The number of the optimizer step, from samples seen: nothing to save, nothing to lose.

    Args:
        rows: samples of this micro-batch.
    """
    return ctx.samples_seen // (rows * ctx.micros * ctx.world_size)


def averaged(terms: list[Term]) -> Parts:
    """Parts of all terms; of a name that several have, the mean."""
    names = {name for _, _, parts in terms for name in parts}
    return {n: torch.stack([p[n] for _, _, p in terms if n in p]).mean() for n in sorted(names)}


def text_bound(
    model: TextLatentModel,
    tokens: Tensor,
    latents: Tensor,
    rng: torch.Generator,
    *,
    draws: int = 1,
) -> Tensor:
    """Bound of −log p(text | latent), nats per text, float64 [B]; see `masked.nll_bound`.

    Args:
        tokens: int64 [B, L]. latents: clean [B, …]; another sample's show how much they are used.
    """
    process = model.process

    def row_losses(hidden: Tensor, t: Tensor, masked: Tensor) -> Tensor:
        losses, places = model.text_losses(tokens, masked, latents, t.float())
        rows = places // tokens.shape[1]
        return losses.new_zeros(len(tokens)).index_add(0, rows, losses)

    real = process.real(tokens)
    return nll_bound(process, tokens, row_losses, rng, draws=draws, real=real)
