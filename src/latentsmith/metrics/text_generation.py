"""How near are written texts to the true ones? Of each text, the mean over all.

Token rows int64 [N, L] on both sides, content only: a constant predictor scores 66 % "accuracy" on
short texts once their padding counts.
"""

from typing import Any

import torch
from torch import Tensor

from latentsmith.data.text.tokens.base import content
from latentsmith.metrics.intervals import permutation_mean
from latentsmith.metrics.registry import Baseline, metric
from latentsmith.metrics.text_overlap import Overlap, check_ids, over_pairs
from latentsmith.utils.seeding import generator


def _others(per_sample: Any) -> Baseline:
    """What texts score that belong to other samples."""

    def chance(ids: Tensor, ids_ref: Tensor, *, seed: int) -> tuple[float, dict[str, Any]]:
        def mean(i: Tensor, j: Tensor) -> float:
            return float(per_sample(ids[i], ids_ref[j]).mean())

        return permutation_mean(mean, len(ids), seed)

    return chance


def exact_per_sample(ids: Tensor, ids_ref: Tensor) -> Tensor:
    """1 where the contents are the same, else 0: float64 [N]."""

    def compute(a: Tensor, b: Tensor) -> Tensor:
        overlap, width = Overlap(a, b), min(a.shape[1], b.shape[1])
        same = (a[:, :width] == b[:, :width]) | ~overlap.in_a[:, :width]
        return (overlap.len_a == overlap.len_b) & same.all(1)

    return over_pairs(ids, ids_ref, compute)


@metric(
    "text_exact",
    help="share of written texts that are the true ones, token for token",
    inputs=("ids", "ids_ref"),
    higher_is_better=True,
    best=1.0,
    per_sample=exact_per_sample,
)
def text_exact(ids: Tensor, ids_ref: Tensor) -> float:
    """Share of samples whose content is exactly the reference's.

    Args:
        ids: written [N, L]. ids_ref: true [N, M].

    Raises:
        UserError: other shapes or types.
    """
    return float(exact_per_sample(ids, ids_ref).mean())


def token_f1_per_sample(ids: Tensor, ids_ref: Tensor) -> Tensor:
    """Set F1 [N]; arguments as `text_token_f1`."""

    def compute(a: Tensor, b: Tensor) -> Tensor:
        shared, in_a, in_b = Overlap(a, b).distinct()
        return _f1(shared, in_a, in_b)

    return over_pairs(ids, ids_ref, compute)


def _f1(shared: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """2 shared / (a + b); two empty texts agree."""
    total = (a + b).double()
    return torch.where(total > 0, 2 * shared / total.clamp_min(1), 1.0)


@metric(
    "text_token_f1",
    help="F1 of the sets of tokens of written and true texts, whatever their order",
    inputs=("ids", "ids_ref"),
    higher_is_better=True,
    best=1.0,
    per_sample=token_f1_per_sample,
    baseline=_others(token_f1_per_sample),
)
def text_token_f1(ids: Tensor, ids_ref: Tensor) -> float:
    """Mean of 2 |A ∩ B| / (|A| + |B|) over the *different* tokens A, B of both texts (as in
    vec2text, Morris et al. 2023, arXiv 2310.06816). Arguments and errors: as `text_exact`."""
    return float(token_f1_per_sample(ids, ids_ref).mean())


def bleu_per_sample(ids: Tensor, ids_ref: Tensor) -> Tensor:
    """Sentence BLEU [N]; arguments as `text_bleu`."""

    def compute(a: Tensor, b: Tensor) -> Tensor:
        overlap = Overlap(a, b)
        logs = torch.zeros(len(a), dtype=torch.float64, device=a.device)
        for n in range(1, 5):
            matches, total = overlap.ngrams(n)
            plus = 0 if n == 1 else 1  # Lin & Och: unigrams are not smoothed
            logs += ((matches + plus) / (total + plus).clamp_min(1).double()).log() / 4
        ratio = overlap.len_b / overlap.len_a.clamp_min(1).double()
        penalty = (1 - ratio).clamp_max(0)
        both_empty = (overlap.len_a == 0) & (overlap.len_b == 0)
        return torch.where(both_empty, 1.0, (logs + penalty).exp())

    return over_pairs(ids, ids_ref, compute)


@metric(
    "text_bleu",
    help="sentence BLEU-4 of word pieces, add-one smoothed, mean over texts",
    inputs=("ids", "ids_ref"),
    higher_is_better=True,
    best=1.0,
    per_sample=bleu_per_sample,
    baseline=_others(bleu_per_sample),
)
def text_bleu(ids: Tensor, ids_ref: Tensor) -> float:
    """Mean over texts of exp(min(0, 1 − |B| / |A|)) Π_n p_n^(1/4), in [0, 1].

    p_n = (matches + 1) / (n-grams + 1) for n > 1, unsmoothed for n = 1 (Papineni et al. 2002; Lin &
    Och 2004, "smoothing 2" of Chen & Cherry 2014). Of tokens and not of words, so it is not
    comparable to sacreBLEU of detokenized text. Arguments and errors: as `text_exact`.
    """
    return float(bleu_per_sample(ids, ids_ref).mean())


def rouge_l_per_sample(ids: Tensor, ids_ref: Tensor) -> Tensor:
    """ROUGE-L [N]; arguments as `text_rouge_l`."""

    def compute(a: Tensor, b: Tensor) -> Tensor:
        overlap = Overlap(a, b)
        return _f1(overlap.longest_common(), overlap.len_a, overlap.len_b)

    return over_pairs(ids, ids_ref, compute)


@metric(
    "text_rouge_l",
    help="ROUGE-L: F1 of the longest common subsequence of tokens",
    inputs=("ids", "ids_ref"),
    higher_is_better=True,
    best=1.0,
    per_sample=rouge_l_per_sample,
    baseline=_others(rouge_l_per_sample),
)
def text_rouge_l(ids: Tensor, ids_ref: Tensor) -> float:
    """Mean of 2 LCS / (|A| + |B|) (Lin 2004, F with beta = 1). Arguments and errors: as
    `text_exact`."""
    return float(rouge_l_per_sample(ids, ids_ref).mean())


def length_error_per_sample(ids: Tensor, ids_ref: Tensor) -> Tensor:
    """| |A| − |B| | [N], in tokens; arguments as `text_exact`."""

    def compute(a: Tensor, b: Tensor) -> Tensor:
        return (content(a).sum(1) - content(b).sum(1)).abs()

    return over_pairs(ids, ids_ref, compute)


@metric(
    "text_length_error",
    help="difference in length of written and true texts, in tokens",
    inputs=("ids", "ids_ref"),
    higher_is_better=False,
    best=0.0,
    per_sample=length_error_per_sample,
)
def text_length_error(ids: Tensor, ids_ref: Tensor) -> float:
    """Mean absolute difference of the numbers of content tokens. Arguments and errors: as
    `text_exact`."""
    return float(length_error_per_sample(ids, ids_ref).mean())


def _grams(ids: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """All n-grams of content int64 [M, n], and the sample each stands in [M]."""
    if ids.shape[1] < n:
        return ids.new_empty(0, n), ids.new_empty(0)
    windows = ids.unfold(1, n, 1)  # [N, L - n + 1, n]
    inside = content(ids)[:, n - 1 :]
    return windows[inside], inside.nonzero()[:, 0]


@metric(
    "text_distinct_2",
    help="different pairs of neighboring tokens over all such pairs of 1,000 texts",
    inputs=("ids",),
    higher_is_better=None,
)
def text_distinct_2(ids: Tensor, *, texts: int = 1_000) -> float:
    """Distinct-2 (Li et al. 2016): low where a model repeats itself.

    It falls with the number of texts, so ``texts`` of them are drawn where there are more, and the
    true texts' own value belongs beside it. Texts of one token have no pairs; without any pair the
    value is 0.

    Args:
        ids: written [N, L].

    Raises:
        UserError: another shape or type.
    """
    check_ids(ids, "ids")
    if len(ids) > texts:
        # of the sorted rows: which are drawn must not depend on their order
        ids = ids[_lexsort(ids)]
        ids = ids[torch.randperm(len(ids), generator=generator("distinct", 0))[:texts]]
    pairs, _ = _grams(ids, 2)
    return len(pairs.unique(dim=0)) / max(len(pairs), 1)


def _lexsort(ids: Tensor) -> Tensor:
    """Order int64 [N] that sorts rows."""
    order = torch.arange(len(ids), device=ids.device)
    for column in ids.flip(1).unbind(1):
        order = order[column[order].sort(stable=True).indices]
    return order


def memorized_per_sample(ids: Tensor, ids_ref: Tensor, *, n: int = 4) -> Tensor:
    """Share of n-grams found in training [texts that have any]; arguments as `text_memorized`."""
    check_ids(ids, "ids")
    check_ids(ids_ref, "ids_ref")
    grams, sample = _grams(ids, n)
    known, _ = _grams(ids_ref, n)
    if not len(grams):
        return torch.zeros(1, dtype=torch.float64)
    _, code = torch.cat([grams, known]).unique(dim=0, return_inverse=True)
    found = torch.isin(code[: len(grams)], code[len(grams) :]).double()
    _, place, counts = sample.unique(return_inverse=True, return_counts=True)
    return found.new_zeros(len(counts)).index_add_(0, place, found) / counts


@metric(
    "text_memorized",
    help="share of four-token runs of written texts that stand in a training text",
    inputs=("ids", "ids_ref"),
    higher_is_better=None,
    per_sample=memorized_per_sample,
)
def text_memorized(ids: Tensor, ids_ref: Tensor, *, n: int = 4) -> float:
    """Mean over texts of the share of their n-grams that occur in training (Lovelace et al. 2023,
    arXiv 2212.09462). The held-out texts' own value is what the language itself gives.

    Args:
        ids: written [N, L]. ids_ref: training texts [M, L].

    Raises:
        UserError: other shapes or types.
    """
    return float(memorized_per_sample(ids, ids_ref, n=n).mean())
