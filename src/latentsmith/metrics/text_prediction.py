"""How well are hidden tokens guessed, given the others and the latent?

Numbers at different mask shares are different questions: the same weights gave 42 % with all tokens
hidden and 54 % with a tenth of them. So say the share, and never count padding.
"""

from typing import Any

import torch
from torch import Tensor

from latentsmith.data.text.tokens.base import EOS_ID, content
from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.intervals import bootstrap_weights
from latentsmith.metrics.registry import Replicates, metric
from latentsmith.metrics.text_overlap import check_id_pair

SHARES = (1.0, 0.5, 0.15)
"""Shares of hidden tokens that accuracy is told at."""


def content_hits(ids: Tensor, ids_ref: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """(hidden content tokens that were guessed, hidden content tokens), float64 [N] each;
    arguments as `content_accuracy`."""
    return _hits(ids, ids_ref, masked, content(ids_ref))


def eos_hits(ids: Tensor, ids_ref: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """(1 where the hidden first EOS was guessed, 1 where it was hidden), float64 [N] each;
    arguments as `content_accuracy`."""
    end = ids_ref == EOS_ID
    return _hits(ids, ids_ref, masked, end & (end.cumsum(1) == 1))


def _hits(ids: Tensor, ids_ref: Tensor, masked: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    check_id_pair(ids, ids_ref)
    if not ids.shape == ids_ref.shape == masked.shape or masked.dtype != torch.bool:
        raise UserError(
            f"guessed ids {list(ids.shape)}, true ids {list(ids_ref.shape)} and masked "
            f"{list(masked.shape)} must have one shape [N, L], masked be bool."
        )
    asked = asked & masked
    return ((ids == ids_ref) & asked).sum(1).double(), asked.sum(1).double()


def _ratio(hits: Tensor, asked: Tensor, what: str) -> float:
    check_count(int(asked.sum()), 1, what, "hidden token")
    return float(hits.sum() / asked.sum())


def _resampled(count: Any) -> Replicates:
    """The ratio of sums, resampled over texts."""

    def draw(ids: Tensor, ids_ref: Tensor, masked: Tensor, **chosen: Any) -> Tensor:
        hits, asked = (part.cpu() for part in count(ids, ids_ref, masked))
        weights = bootstrap_weights(len(hits), chosen["replicates"], chosen["seed"])
        return (hits @ weights) / (asked @ weights).clamp_min(1)

    return draw


@metric(
    "content_accuracy",
    help="share of hidden content tokens that were guessed; padding and EOS never count",
    inputs=("ids", "ids_ref", "masked"),
    higher_is_better=True,
    best=1.0,
    replicates=_resampled(content_hits),
)
def content_accuracy(ids: Tensor, ids_ref: Tensor, masked: Tensor) -> float:
    """Guessed tokens over all hidden tokens of all texts, content only. The interval resamples
    texts.

    Args:
        ids: guesses [N, L], looked at where ``masked`` only. ids_ref: true [N, L].
        masked: bool [N, L], what was hidden (all: the guess is from the latent alone).

    Raises:
        UserError: other shapes or types, or no hidden content at all.
    """
    return _ratio(*content_hits(ids, ids_ref, masked), "content_accuracy")


@metric(
    "eos_accuracy",
    help="share of hidden ends of text that were guessed at their place",
    inputs=("ids", "ids_ref", "masked"),
    higher_is_better=True,
    best=1.0,
    replicates=_resampled(eos_hits),
)
def eos_accuracy(ids: Tensor, ids_ref: Tensor, masked: Tensor) -> float:
    """As `content_accuracy`, of the first EOS of each text: the fill after it never counts."""
    return _ratio(*eos_hits(ids, ids_ref, masked), "eos_accuracy")


def latent_use_per_sample(nll: Tensor, nll_ref: Tensor) -> Tensor:
    """Nats per token [N]; arguments as `latent_use`."""
    for value, name in ((nll, "nll"), (nll_ref, "nll_ref")):
        check_finite(value, name)
    if nll.shape != nll_ref.shape or not len(nll):
        raise UserError(
            f"nll {list(nll.shape)} and nll_ref {list(nll_ref.shape)} must have one shape [N, ...] "
            "of at least one text."
        )
    return (nll_ref.double() - nll.double()).reshape(len(nll), -1).mean(1)


@metric(
    "latent_use",
    help="nats per token that the text's own latent saves, against another text's",
    inputs=("nll", "nll_ref"),
    higher_is_better=True,
    unit="nats",
    per_sample=latent_use_per_sample,
)
def latent_use(nll: Tensor, nll_ref: Tensor) -> float:
    """Mean of NLL(text | latent of another text) − NLL(text | its latent): 0 for a model that does
    not look at latents, however well it guesses.

    Args:
        nll: nats per token of each text with its own latent, [N] or [N, draws].
        nll_ref: the same texts, masks and draws with shuffled latents, same shape.

    Raises:
        UserError: other shapes, NaN.
    """
    return float(latent_use_per_sample(nll, nll_ref).mean())
