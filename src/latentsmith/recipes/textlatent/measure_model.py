"""The report card of a model of both directions.

Every mode is measured by itself, on fixed noise and masks. Accuracy is of content tokens only, at
three shares of hidden tokens; NLL counts a text's bound over its content and first EOS.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.text.tokens.base import said
from latentsmith.diffusion.text_latent.task import text_bound
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.text_generation import token_f1_per_sample
from latentsmith.metrics.text_latents import cosine_per_sample, noise_area
from latentsmith.metrics.text_prediction import SHARES
from latentsmith.recipes.textlatent.config import TextLatentRecipe
from latentsmith.recipes.textlatent.measure_drawn import measure_drawn
from latentsmith.recipes.textlatent.yardstick import READ_AGAIN, Yardstick
from latentsmith.sampling.text_latent.decode import decode
from latentsmith.sampling.text_latent.latents import LatentSample, one_step, sample_latents
from latentsmith.sampling.text_latent.search import search
from latentsmith.sampling.text_latent.tokens import TextSample, TextSamplerConfig
from latentsmith.sampling.text_latent.translator import Translator

Ids = dict[str, Tensor]
"""Method → token rows, for examples."""
SEARCHED = "searched"
"""Label of texts that a search among candidates found."""


def measure_model(
    cfg: TextLatentRecipe, yard: Yardstick, translator: Translator, arm: str
) -> tuple[LatentCard, Ids]:
    """The card, and the texts written for the test latents."""
    card = Card(cfg, yard, translator, arm)
    card.predictions()
    card.likelihood()
    ids = card.texts()
    card.latents()
    card.round_trips(ids[arm])
    card.robustness()
    card.card.extend(measure_drawn(cfg, yard, translator, arm))
    return card.card, ids


class Card:
    """One model's measurements while they are made."""

    def __init__(self, cfg: TextLatentRecipe, yard: Yardstick, translator: Translator, arm: str):
        self.cfg, self.yard, self.arm, self.card = cfg, yard, arm, LatentCard()
        self.model = translator.model
        self.device = translator.model.device

    def _batches(self, work: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        size = self.cfg.evaluate.batch_size
        parts = zip(*(x.split(size) for x in rows), strict=True)
        return torch.cat([work(*(x.to(self.device) for x in part)).cpu() for part in parts])

    # L2T ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predictions(self) -> None:
        """Guesses of hidden tokens, at each share of them."""
        yard, model = self.yard, self.model
        for share in SHARES:
            u = torch.rand(yard.ids.shape, generator=yard.rng("hidden"))
            hidden = u < share if share < 1 else torch.ones_like(u, dtype=torch.bool)
            real = model.process.real(yard.ids)
            hidden = hidden if real is None else hidden & real
            guesses = self._batches(self._guess, yard.ids, yard.z, hidden)
            stamp, label = yard.stamp(self.arm, hidden=share), f"{share:g}"
            for metric in ("content_accuracy", "eos_accuracy"):
                yard.add(self.card, metric, guesses, yard.ids, hidden, stamp=stamp, label=label)

    def _guess(self, tokens: Tensor, z: Tensor, hidden: Tensor) -> Tensor:
        """Likeliest tokens at hidden places [b, L], the true ones elsewhere."""
        model, process = self.model, self.model.process
        places = hidden.flatten().nonzero().squeeze(1)
        t = process.time(hidden.float().mean(1))
        shown = process.hide(tokens, hidden)
        out = model(
            shown, z, t, torch.zeros_like(t),
            positions=places, latent=False, real=process.real(tokens),
        )  # fmt: skip
        assert out.logits is not None
        found = tokens.flatten().clone()
        found[places] = process.subs(out.logits).argmax(-1)
        return found.view_as(tokens)

    @torch.no_grad()
    def likelihood(self) -> None:
        """The bound, and what the text's own latent saves of it."""
        yard, draws = self.yard, self.cfg.evaluate.bound_draws

        def nats(latents: Tensor) -> Tensor:
            number = iter(range(len(yard)))

            def bound(tokens: Tensor, z: Tensor) -> Tensor:
                rng = yard.rng("bound", next(number))
                if self.device.type != "cpu":
                    rng = torch.Generator(self.device).manual_seed(rng.initial_seed() % 2**62)
                return text_bound(self.model, tokens, z, rng, draws=draws)

            return self._batches(bound, yard.ids, latents)

        tokens = said(yard.ids).sum(1)
        own, others = (nats(z) / tokens for z in (yard.z, yard.z.roll(1, 0)))
        stamp = yard.stamp(self.arm, likelihood=f"bound, {draws} draws")
        yard.number(self.card, "text_nll", own, stamp, higher_is_better=False)
        yard.add(self.card, "latent_use", own, others, stamp=stamp)

    def texts(self) -> Ids:
        """Texts of all test latents: as set, in fewer steps, and the best of several."""
        e, yard, found = self.cfg.evaluate, self.yard, Ids()
        ids, nfe, seconds = self.write(yard.z, e.decode)
        found[self.arm] = ids
        yard.written(self.card, ids, self.arm, **_told(e.decode, nfe))
        stamp = yard.stamp(self.arm, **_told(e.decode, nfe))
        yard.number(self.card, "nfe_text", float(nfe), stamp)
        yard.number(self.card, "seconds_per_1000_texts", 1000 * seconds / len(yard), stamp)
        for steps in e.steps:
            config = replace(e.decode, steps=steps)
            ids, nfe, _ = self.write(yard.z, config)
            yard.written(self.card, ids, self.arm, f"steps_{steps}", **_told(config, nfe))
        if e.candidates > 1:
            found |= self._best(ids)
        return found

    def _best(self, ids: Tensor) -> Ids:
        """The best of N by the model's own T2L, and what a search finds from there, beside one draw
        and the usual text of the same latents."""
        e, yard = self.cfg.evaluate, self.yard
        count = min(e.candidates_count, len(yard))
        drawn = replace(e.decode, temperature=e.temperature)
        found = Ids()
        ways = {"one_drawn": (1, 0), f"best_of_{e.candidates}": (e.candidates, 0)}
        if e.rounds:
            ways[SEARCHED] = e.candidates, e.rounds
        for name, (candidates, rounds) in ways.items():
            found[name], nfe, _ = self.write(yard.z[:count], drawn, candidates, rounds)
            told = {"candidates": candidates, "rounds": rounds, "reranked": "by its own T2L"}
            yard.written(self.card, found[name], self.arm, name, **_told(drawn, nfe) | told)
        plain = self.write(yard.z[:count], e.decode)[0] if count < len(yard) else None
        if plain is not None:
            yard.written(self.card, plain, self.arm, "same_texts", **_told(e.decode, 0))
        best = {f"{self.arm}, best of {e.candidates}": found[f"best_of_{e.candidates}"]}
        return best | ({f"{self.arm}, searched": found[SEARCHED]} if e.rounds else {})

    def write(
        self, z: Tensor, config: TextSamplerConfig, candidates: int = 1, rounds: int = 0
    ) -> tuple[Tensor, int, float]:
        """(token rows [n, L], looks at each, seconds)."""
        looks, began = [0], time.monotonic()
        rng = torch.Generator(self.device).manual_seed(self.cfg.seed)
        size = max(1, self.cfg.evaluate.batch_size // candidates)

        def some(part: Tensor) -> TextSample:
            if candidates > 1:
                found = search(self.model, part, config, rng, candidates=candidates, rounds=rounds)
                return found.best()
            return decode(self.model, part, config, rng, given=None)

        found = []
        for part in z.split(size):
            made = some(part.to(self.device))
            looks[0] = max(looks[0], made.nfe)
            found.append(made.tokens.cpu())
        return torch.cat(found), looks[0], time.monotonic() - began

    # T2L ------------------------------------------------------------------------------------------

    def read(self, ids: Tensor, draws: int = 1) -> Tensor:
        """T2L in one step: token rows → normalized latents [n, K0, D']."""
        rng = torch.Generator(self.device).manual_seed(self.cfg.seed)
        return self._batches(lambda t: one_step(self.model, t, rng, draws=draws).latents, ids)

    def latents(self) -> None:
        """Latents of all test texts, in one step and by a sampler."""
        e, yard = self.cfg.evaluate, self.yard
        z = self.read(yard.ids, e.draws)
        yard.guessed(self.card, z, self.arm, nfe=e.draws, draws=e.draws)
        rng = torch.Generator(self.device).manual_seed(self.cfg.seed)
        made = list[LatentSample]()

        def some(tokens: Tensor) -> Tensor:
            made.append(sample_latents(self.model, tokens, e.sampler, rng))
            return made[-1].latents

        z = self._batches(some, yard.ids)
        label = e.sampler.kind
        yard.guessed(self.card, z, self.arm, label, sampler=label, nfe=made[0].nfe)

    # Both -----------------------------------------------------------------------------------------

    def round_trips(self, ids: Tensor) -> None:
        """Text → latent → text; latent → text → latent. That of the model alone may be blind:
        what the real encoder says of the texts is ``latent_cosine_reembedded``."""
        e, yard = self.cfg.evaluate, self.yard
        back = self.write(self.read(yard.ids, e.draws), e.decode)[0]
        yard.written(self.card, back, self.arm, "t2l2t", trip="text, latent, text")
        yard.guessed(
            self.card, self.read(ids, e.draws), self.arm, "l2t2l", trip="latent, text, latent"
        )

    def robustness(self) -> None:
        """Quality over noise on the latents: the area under the curve, and each point."""
        e, yard = self.cfg.evaluate, self.yard
        count = min(e.noise_count, len(yard))
        noise = torch.randn(yard.z[:count].shape, generator=yard.rng("latent noise"))
        f1, cosine = list[Tensor](), list[Tensor]()
        for sigma in e.noise:
            ids = self.write(yard.z[:count] + sigma * noise, e.decode)[0]
            f1.append(token_f1_per_sample(ids, yard.ids[:count]))
            again = yard.read(yard.inputs.tokenizer.decode(ids))
            if again is not None:
                cosine.append(cosine_per_sample(again, yard.raw[:count, 0]))
        levels = torch.tensor(e.noise)
        stamp = yard.stamp(self.arm, count, noise=e.noise)
        for label, values in {"f1": f1, f"cosine_{READ_AGAIN}": cosine}.items():
            if values:
                curve = torch.stack(values)
                area = noise_area(levels, curve)
                name = "noise_area"
                yard.number(self.card, name, area, stamp, label=label, higher_is_better=True)
                key = f"{name}_{label}"
                self.card.figures[key] = torch.stack([levels.double(), curve.mean(1)])


def _told(config: TextSamplerConfig, nfe: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        "sampler": config.kind, "steps": config.steps, "temperature": config.temperature,
    }  # fmt: skip
    return told | ({"nfe": nfe} if nfe else {})
