"""Every method on the same test texts: one card each, in the order of the report's table.

What needs no training is in the same table as the model, since what does not beat it is no result:
the constant text, word frequencies, the nearest training text, maps linear in the latent and in the
bag of tokens, and decoders of the model's size.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latentsmith.backbones.text_inverter import Order
from latentsmith.config.run import Run
from latentsmith.data.text.tokens.base import said
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.text_baselines import (
    LinearText,
    constant_text,
    drawn_pool,
    nearest_rows,
    unigram_nll,
)
from latentsmith.recipes.textlatent.baselines import Inverters
from latentsmith.recipes.textlatent.config import TextLatentRecipe
from latentsmith.recipes.textlatent.inputs import Inputs, all_latents
from latentsmith.recipes.textlatent.measure_model import measure_model
from latentsmith.recipes.textlatent.models import Models
from latentsmith.recipes.textlatent.yardstick import Yardstick
from latentsmith.training.team import Team
from latentsmith.utils.files import write_json

SHOWN = 12
"""Texts kept for the report."""
NLL = "text_nll"
"""Nats per token of content and first EOS."""
EXAMPLES = "examples.json"


class Measurer:
    """Measures all methods of one run."""

    def __init__(
        self,
        cfg: TextLatentRecipe,
        inputs: Inputs,
        team: Team,
        models: Models,
        inverters: Inverters,
    ):
        self.cfg, self.inputs, self.team = cfg, inputs, team
        self.models, self.inverters = models, inverters
        self.yard = Yardstick(cfg, inputs)
        self.examples: dict[str, list[str]] = {}

    def methods(self, run: Run) -> Iterator[tuple[str, Callable[[], LatentCard]]]:
        """(name, what measures it)."""
        yield "constant", self.constant
        yield "nearest", self.nearest
        if self.cfg.baselines.linear:
            yield "linear", self.linear
        yield "ridge", self.ridge
        if self.cfg.network.linear:
            yield "start", self.start
        for order in self.cfg.baselines.trained:
            yield order, partial(self.decoder, run, order)
        for arm in self.cfg.arms:
            yield arm, partial(self.model, run, arm)

    def save_examples(self, run: Run) -> None:
        """The first test texts and what each method made of them."""
        rows = {"text": self.yard.texts[:SHOWN], **self.examples}
        write_json(run.folder("measurements") / EXAMPLES, rows)

    def keep(self, method: str, ids: Tensor) -> None:
        """Remember a method's texts of the first test texts."""
        self.examples[method] = self.inputs.tokenizer.decode(ids[:SHOWN])

    # Without training -----------------------------------------------------------------------------

    def constant(self) -> LatentCard:
        """The likeliest token of each position; token frequencies; the mean latent."""
        card, yard, pairs = LatentCard(), self.yard, self.inputs.pairs
        ids = constant_text(pairs.tokens, len(yard))
        self._writes(card, ids, "constant")
        nats = unigram_nll(pairs.tokens, yard.ids, self.inputs.tokenizer.size)
        yard.number(card, NLL, nats, yard.stamp("token frequencies"), higher_is_better=False)
        mean = all_latents(pairs).mean(0, keepdim=True)
        yard.guessed(card, mean.expand(len(yard), -1, -1), "mean latent")
        return card

    def nearest(self) -> LatentCard:
        """The training text with the nearest latent."""
        card, pairs, most = LatentCard(), self.inputs.pairs, self.cfg.baselines.pool
        pool = torch.arange(len(pairs))
        if most is not None and most < len(pairs):
            pool = drawn_pool(len(pairs), most, self.cfg.seed)
        latents = self.inputs.data.latents(pairs.rows[pool])
        found = pairs.tokens[pool[nearest_rows(self.yard.raw, latents)]]
        self._writes(card, found, "nearest", pool=len(pool))
        return card

    def linear(self) -> LatentCard:
        """Tokens of each position linear in the latent; its strength chosen on validation texts."""
        card, pairs, val = LatentCard(), self.inputs.pairs, self.inputs.val
        fitted = LinearText.fit(
            all_latents(pairs), pairs.tokens, all_latents(val), val.tokens,
            vocabulary=self.inputs.tokenizer.size,
        )  # fmt: skip
        self._writes(card, fitted(self.yard.z), "linear", strength=fitted.strength)
        return card

    def ridge(self) -> LatentCard:
        """Latents linear in the bag of the most frequent tokens."""
        card, ridge = LatentCard(), self.inputs.ridge
        detail = {"strength": ridge.strength, "tokens": len(ridge.bags.tokens)}
        self.yard.guessed(card, ridge(self.yard.ids), "ridge", **detail)
        return card

    def start(self) -> LatentCard:
        """What linear paths start from: latents linear in the bag of *all* tokens."""
        card, (ridge, _) = LatentCard(), self.inputs.closed_forms
        detail = {"strength": ridge.strength, "tokens": len(ridge.bags.tokens)}
        self.yard.guessed(card, ridge(self.yard.ids), "ridge, all tokens", **detail)
        return card

    def _writes(self, card: LatentCard, ids: Tensor, method: str, **detail: Any) -> None:
        """Texts of all test latents."""
        yard = self.yard
        yard.written(card, ids, method, **detail)
        hidden = torch.ones_like(ids, dtype=torch.bool)
        stamp = yard.stamp(method, hidden=1.0, **detail)
        yard.add(card, "content_accuracy", ids, yard.ids, hidden, stamp=stamp, label="1")
        yard.add(card, "eos_accuracy", ids, yard.ids, hidden, stamp=stamp, label="1")
        self.keep(method, ids)

    # Trained --------------------------------------------------------------------------------------

    @torch.no_grad()
    def decoder(self, run: Run, order: Order) -> LatentCard:
        """A decoder of the model's size: its texts, its likelihood, its use of the latent."""
        card, yard, device = LatentCard(), self.yard, self.team.device
        network, size = self.inverters.load(run, order), self.cfg.evaluate.batch_size
        parts = yard.z.split(size)
        ids = torch.cat([network.generate(z.to(device)).cpu() for z in parts])
        self._writes(card, ids, order)

        def nats(latents: Tensor) -> Tensor:
            rows = zip(yard.ids.split(size), latents.split(size), strict=True)
            pairs = (network.nll(t.to(device), z.to(device)) for t, z in rows)
            return torch.cat([(n * c).sum(1).double().cpu() for n, c in pairs])

        tokens = said(yard.ids).sum(1)
        own, others = (nats(z) / tokens for z in (yard.z, yard.z.roll(1, 0)))
        stamp = yard.stamp(order, likelihood="exact" if network.causal else "independent tokens")
        yard.number(card, NLL, own, stamp, higher_is_better=False)
        yard.add(card, "latent_use", own, others, stamp=stamp)
        return card

    def model(self, run: Run, arm: str) -> LatentCard:
        """The report card of one arm."""
        translator = self.models.load(run, arm)  # type: ignore[arg-type]
        card, ids = measure_model(self.cfg, self.yard, translator, arm)
        summary = run.summary(arm)
        stamp = self.yard.stamp(arm)
        forwards = summary["parts"].get("text_latent/forwards")
        if forwards is not None:
            self.yard.number(card, "forwards_per_sample", float(forwards), stamp)
        for method, found in ids.items():
            self.keep(method, found)
        return card


def load_examples(run: Run) -> dict[str, list[str]]:
    """What `Measurer.save_examples` wrote."""
    return json.loads((run.path / "measurements" / EXAMPLES).read_text())
