"""Pairs drawn from noise: are both like real ones, and do they belong together?"""

from dataclasses import replace

import torch

from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.frechet import reference_floor
from latentsmith.metrics.sliced_w2 import sliced_w2_floor
from latentsmith.metrics.text_latents import cosine_per_sample
from latentsmith.recipes.textlatent.config import TextLatentRecipe
from latentsmith.recipes.textlatent.yardstick import Yardstick
from latentsmith.sampling.text_latent.translator import Translator
from latentsmith.sampling.text_latent.writing import Way, sample

WAYS: tuple[Way, ...] = ("sequential", "joint")
STEPS = 16
"""Looks of the joint way at least: text and latent move together."""


def measure_drawn(
    cfg: TextLatentRecipe, yard: Yardstick, translator: Translator, arm: str
) -> LatentCard:
    """Distances of latents from the test's, with what the real distribution gets at this number;
    repetition and memorization of texts, with the test's own; agreement of both."""
    card, e, inputs = LatentCard(), cfg.evaluate, yard.inputs
    if "unconditional" not in cfg.learn.modes.seen:
        card.not_measured["drawn"] = f"modes.mode={cfg.learn.modes.mode} never saw noise on both"
        return card
    train = inputs.pairs
    rows = torch.randperm(len(train), generator=yard.rng("floor"))[: e.generated]
    real = inputs.normalizer.normalize(inputs.data.latents(train.rows[rows])).flatten(1)
    test = yard.z.flatten(1)
    _truth(card, yard, arm)
    for way in WAYS:
        config = replace(e.decode, temperature=1.0, kind="ancestral", guidance=1.0)
        config = replace(config, steps=max(config.steps, STEPS))
        drawn = sample(translator, e.generated, config, way=way, sampler=e.sampler, seed=cfg.seed)
        z = inputs.normalizer.normalize(drawn.latents).flatten(1)
        stamp = yard.stamp(arm, e.generated, way=way, steps=config.steps)
        floor, told = sliced_w2_floor(real, test, e.generated)
        card.add(
            "sliced_w2", z, test, stamp=replace(stamp, detail=stamp.detail | told),
            label=way, baseline=floor,
        )  # fmt: skip
        lowest = reference_floor(test, len(z))[0] if len(test) >= 4 else None
        card.add("fd", z, test, stamp=stamp, label=way, baseline=lowest)
        card.add("text_distinct_2", drawn.tokens, stamp=stamp, label=way)
        yard.add(card, "text_memorized", drawn.tokens, train.tokens, stamp=stamp, label=way)
        again = yard.read(drawn.texts)
        if again is None:
            card.not_measured[f"drawn_agreement_{way}"] = yard.missing
        else:
            cosine = cosine_per_sample(again, drawn.latents[:, 0])
            yard.number(card, "drawn_agreement", cosine, stamp, label=way, higher_is_better=True)
    return card


def _truth(card: LatentCard, yard: Yardstick, arm: str) -> None:
    """The test texts' own repetition and overlap with training."""
    stamp = yard.stamp("test texts")
    card.add("text_distinct_2", yard.ids, stamp=stamp, label="test")
    yard.add(card, "text_memorized", yard.ids, yard.inputs.pairs.tokens, stamp=stamp, label="test")
