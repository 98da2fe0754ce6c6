"""The test texts that everything is measured on, and how each kind of answer is scored."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.intervals import bootstrap_mean, percentiles
from latentsmith.recipes.textlatent.config import TextLatentRecipe
from latentsmith.recipes.textlatent.inputs import Inputs
from latentsmith.utils.seeding import generator

READ_AGAIN = "reembedded"
"""Ending of what is measured of texts that the real encoder has read again."""


class Yardstick:
    """Scores answers on the same test texts.

    Attributes:
        ids: int64 [n, L]. z: normalized latents [n, K0, D']. raw: as the encoder makes them.
        texts: as they were written.
    """

    def __init__(self, cfg: TextLatentRecipe, inputs: Inputs):
        self.cfg, self.inputs = cfg, inputs
        test = inputs.test
        rows = torch.arange(min(cfg.evaluate.count, len(test)))
        if len(rows) < len(test):  # drawn: a source's first rows are alike
            order = torch.randperm(len(test), generator=generator("test texts", 0))
            rows = order[: len(rows)].sort().values
        self.ids, self.z, self.texts = test.tokens[rows], test.latents(rows), test.texts(rows)
        self.raw = inputs.data.latents(test.rows[rows])
        # an exact answer costs nothing to read again
        self._known = dict(zip(self._shown(self.ids), self.raw[:, 0], strict=True))

    def __len__(self) -> int:
        return len(self.ids)

    def _shown(self, ids: Tensor) -> list[str]:
        return self.inputs.tokenizer.decode(ids)

    @cached_property
    def _encoder(self) -> Any:
        return self.inputs.reembed()

    @property
    def missing(self) -> str:
        """Why no text is read again; "" where they are."""
        if len(self.raw[0]) > 1:
            return "latents of several vectors are not read again"
        return self._encoder[1]

    def stamp(self, method: str, count: int | None = None, **detail: Any) -> Stamp:
        """Protocol of a measurement of one method."""
        policy = self.inputs.tokenizer.config.policy
        length = {"length": "told (oracle)"} if policy == "given_length" else {}
        more = {"method": method} | length | detail
        name = f"{self.inputs.data.name}/test"
        return Stamp(data=name, count=count or len(self), detail=more)

    def rng(self, *what: str | int) -> torch.Generator:
        """Draws that are the same for every method and run of this seed."""
        return generator(self.cfg.seed, "measure", *what)

    # Scores ---------------------------------------------------------------------------------------

    def add(
        self, card: LatentCard, metric: str, *values: Any, stamp: Stamp, label: str = ""
    ) -> None:
        """`LatentCard.add` with this protocol's resamples."""
        resamples = self.cfg.evaluate.resamples
        card.add(metric, *values, stamp=stamp, label=label or None, resamples=resamples)

    def written(
        self, card: LatentCard, ids: Tensor, method: str, label: str = "", **detail: Any
    ) -> None:
        """How near texts [m, L] are to the first m test texts, and their latents read again."""
        count = len(ids)
        stamp, truth = self.stamp(method, count, **detail), self.ids[:count]
        for metric in (
            "text_exact", "text_token_f1", "text_bleu", "text_rouge_l", "text_length_error",
        ):  # fmt: skip
            self.add(card, metric, ids, truth, stamp=stamp, label=label)
        ending = "_".join(part for part in (label, READ_AGAIN) if part)
        again = self.read(self._shown(ids))
        for metric in ("latent_cosine", "retrieval_at_1"):
            if again is None:
                card.not_measured[f"{metric}_{ending}"] = self.missing
            else:
                self.add(card, metric, again, self.raw[:count, 0], stamp=stamp, label=ending)

    def read(self, texts: Sequence[str]) -> Tensor | None:
        """The real encoder's raw latents [n, D] of texts, each different one read once; None where
        it cannot be asked."""
        if self.missing:
            return None
        encoder, size = self._encoder[0], 64
        asked = sorted({text for text in texts if text not in self._known}, key=len)
        for first in range(0, len(asked), size):
            some = asked[first : first + size]
            found = encoder([text or " " for text in some]).embedding.float().cpu()
            self._known |= dict(zip(some, found, strict=True))
        return torch.stack([self._known[text] for text in texts])

    def guessed(
        self, card: LatentCard, z: Tensor, method: str, label: str = "", **detail: Any
    ) -> None:
        """How near normalized latents [m, …] are to those of the first m test texts."""
        z = z.reshape(len(z), *self.z.shape[1:]).float()
        stamp, count = self.stamp(method, len(z), **detail), len(z)
        raw, truth = self.inputs.normalizer.denormalize(z), self.raw[:count]
        for metric in ("latent_cosine", "retrieval_at_1"):
            self.add(card, metric, raw, truth, stamp=stamp, label=label)
        for metric in ("latent_mse", "latent_norm_ratio", "latent_r2"):
            self.add(card, metric, z, self.z[:count], stamp=stamp, label=label)

    def number(
        self,
        card: LatentCard,
        name: str,
        values: Tensor | float,
        stamp: Stamp,
        *,
        label: str = "",
        higher_is_better: bool | None = None,
    ) -> None:
        """A measurement that no registered metric makes: of each sample [n], or a number."""
        draws = None
        if isinstance(values, Tensor) and self.cfg.evaluate.resamples and len(values) > 1:
            draws = bootstrap_mean(values.double(), self.cfg.evaluate.resamples, 0)
        value = float(values.double().mean()) if isinstance(values, Tensor) else values
        interval = None if draws is None else percentiles(draws)
        card.measurements.append(
            Measurement(
                f"{name}_{label}" if label else name, value, replace(stamp, seed=0), interval,
                higher_is_better=higher_is_better, metric=name, draws=draws,
            )
        )  # fmt: skip
