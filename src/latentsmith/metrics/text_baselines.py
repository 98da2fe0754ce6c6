"""What the simplest methods get, in both directions, beside every trained model.

    constant     the most frequent token of each position          text from nothing
    unigram      token frequencies                                 likelihood from nothing
    nearest      the training text with the nearest latent         text from latent; exact is 0
    linear       tokens of each position, linear in the latent     text from latent
    ridge bag    latents, linear in which tokens a text has        latent from text

They are hard to beat: on WordNet's definitions the ridge reaches a cosine of 0.77 and finds nine of
ten texts among 2,000. Strengths are chosen on validation texts and never on test texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentsmith.data.text.tokens.base import content, said
from latentsmith.errors import UserError
from latentsmith.losses.alignment import unit
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.text_latents import cosine_per_sample
from latentsmith.metrics.text_overlap import check_ids
from latentsmith.metrics.text_prediction import content_accuracy
from latentsmith.utils.seeding import generator

BAG_STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Ridge strengths λ tried for Σ |z − x W − b|² + λ |W|², whose rows x have length 1."""
LINEAR_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Ridge strengths tried on latents, in units of Σ x_d² (its mean over dimensions)."""
_ROWS = 1024


def constant_text(ids: Tensor, count: int) -> Tensor:
    """The most frequent token of each position of training texts ids [M, L], for ``count`` texts:
    int64 [count, L]. Of equally frequent tokens the lowest number."""
    check_ids(ids, "ids")
    best = [column.bincount().argmax() for column in ids.unbind(1)]
    return torch.stack(best).expand(count, -1)


def unigram_nll(train: Tensor, test: Tensor, vocabulary: int) -> Tensor:
    """Nats per token [N] of test texts [N, L] under token frequencies of training texts [M, L],
    each token counted once too often. Content and the first EOS count, as what a text says."""
    check_ids(train, "train")
    check_ids(test, "test")
    counts = train[said(train)].bincount(minlength=vocabulary).double() + 1
    nats = -(counts / counts.sum()).log()[test]
    counted = said(test)
    return (nats * counted).sum(1) / counted.sum(1).clamp_min(1)


def drawn_pool(n: int, count: int, seed: int = 0) -> Tensor:
    """``count`` of n training rows to retrieve from, int64, ascending. Drawn: the first rows of a
    source are alike (WordNet's are sorted by meaning), and a pool of them finds less."""
    check_count(n, count, f"a pool of {count}", "training texts")
    return torch.randperm(n, generator=generator(seed, "pool", n))[:count].sort().values


def nearest_rows(queries: Tensor, pool: Tensor) -> Tensor:
    """Row of the pool [M, ...] nearest to each query [N, ...] by cosine: int64 [N]. Say M beside
    what comes of it: retrieval improves with every text.

    Raises:
        UserError: NaN, an empty pool or other widths.
    """
    check_count(len(pool), 1, "retrieval", "latent in the pool")
    q, p = (unit(check_finite(x, "latents").float().flatten(1)) for x in (queries, pool))
    if q.shape[1] != p.shape[1]:
        raise UserError(f"queries are {q.shape[1]} wide, the pool is {p.shape[1]}: two encoders.")
    return torch.cat([(rows @ p.T).argmax(1) for rows in q.split(_ROWS)])


@dataclass(frozen=True)
class Bags:
    """Which tokens texts have, by their most frequent ones.

    A row holds the square roots of the counts, at length 1 (the Hellinger map): a repeated word
    says little more than a single one, and long texts no more than short ones.

    Attributes:
        tokens: the columns' token ids, int64 [P].
        column: id → column, -1 where it has none, int64 [V].
    """

    tokens: Tensor
    column: Tensor

    @classmethod
    def of(cls, ids: Tensor, vocabulary: int, most: int) -> "Bags":
        """Columns for the ``most`` tokens that most training texts ids [M, L] hold."""
        counts = ids[content(ids)].bincount(minlength=vocabulary)
        order = counts.sort(descending=True, stable=True).indices[:most]
        tokens = order[counts[order] > 0]
        column = torch.full((vocabulary,), -1, dtype=torch.int64)
        column[tokens] = torch.arange(len(tokens))
        return cls(tokens, column)

    def entries(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and values of the nonzero entries of ids [N, L], sorted by row."""
        at = self.column[ids].masked_fill(~content(ids), -1)
        row = torch.arange(len(ids))[:, None].expand_as(at)
        here = at >= 0
        pair, counts = torch.stack([row[here], at[here]]).unique(dim=1, return_counts=True)
        value = counts.double().sqrt()
        power = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, pair[0], value.square())
        return pair[0], pair[1], value / power[pair[0]].sqrt()

    def matrix(self, ids: Tensor) -> Tensor:
        """The rows as a sparse float64 [N, P]."""
        row, column, value = self.entries(ids)
        size, where = (len(ids), len(self.tokens)), torch.stack([row, column])
        return torch.sparse_coo_tensor(where, value, size, check_invariants=False).coalesce()


class RidgeBag:
    """Latents linear in bags of tokens: z = x W + b, ridge on W.

    Args:
        bags: how texts become rows.
        weight: float64 [P, D]. bias: [D].
        strength: the ridge that was chosen.
    """

    def __init__(self, bags: Bags, weight: Tensor, bias: Tensor, strength: float):
        self.bags, self.weight, self.bias, self.strength = bags, weight, bias, strength

    def __call__(self, ids: Tensor) -> Tensor:
        """Token rows [N, L] → latents float32 [N, D]."""
        return (torch.sparse.mm(self.bags.matrix(ids), self.weight) + self.bias).float()

    @classmethod
    def fit(
        cls,
        ids: Tensor,
        latents: Tensor,
        val_ids: Tensor,
        val_latents: Tensor,
        *,
        vocabulary: int,
        most: int = 5_000,
        strengths: Sequence[float] = BAG_STRENGTHS,
    ) -> "RidgeBag":
        """Fit on training texts [M, L] with latents [M, ...]; of ``strengths`` the one with the
        best cosine on validation texts.

        Takes 8 P² bytes twice over, and seconds for P = 5,000.

        Raises:
            UserError: NaN, or another number of latents than texts.
        """
        bags = Bags.of(check_ids(ids, "ids"), vocabulary, most)
        x, z = bags.matrix(ids), _paired(latents, ids)
        val = bags.matrix(val_ids)
        target = _paired(val_latents, val_ids)
        mean_x, mean_z = torch.sparse.sum(x, 0).to_dense() / len(ids), z.mean(0)
        gram = _gram(bags, ids).addr_(mean_x, mean_x, alpha=-len(ids))
        cross = torch.sparse.mm(x.T, z - mean_z)  # centering z alone centers both
        best: tuple[float, RidgeBag] | None = None
        diagonal = gram.diagonal().clone()
        for strength in strengths:
            gram.diagonal().copy_(diagonal + strength)
            weight = torch.cholesky_solve(cross, torch.linalg.cholesky(gram))
            made = cls(bags, weight, mean_z - mean_x @ weight, strength)
            guess = torch.sparse.mm(val, weight) + made.bias
            score = float(cosine_per_sample(guess, target).mean())
            if best is None or score > best[0]:
                best = score, made
        if best is None:
            raise ValueError("no strengths to choose from")
        return best[1]


def _paired(latents: Tensor, ids: Tensor) -> Tensor:
    """float64 [N, D]. Raises UserError."""
    z = check_finite(latents, "latents").double().flatten(1)
    if len(z) != len(ids):
        raise UserError(f"{len(z)} latents for {len(ids)} texts.")
    return z


def _gram(bags: Bags, ids: Tensor) -> Tensor:
    """Xᵀ X float64 [P, P], from the few pairs of tokens each text has: a product of dense matrices
    would take a minute."""
    p = len(bags.tokens)
    out = torch.zeros(p * p, dtype=torch.float64)
    for some in ids.split(_ROWS):
        row, column, value = bags.entries(some)
        counts = row.bincount(minlength=len(some))
        begin = (counts.cumsum(0) - counts)[row]  # where the row of each entry begins
        repeats = counts[row]
        first = torch.arange(len(row)).repeat_interleave(repeats)
        within = torch.arange(len(first)) - (repeats.cumsum(0) - repeats).repeat_interleave(repeats)
        second = begin.repeat_interleave(repeats) + within
        out.index_add_(0, column[first] * p + column[second], value[first] * value[second])
    return out.view(p, p)


class LinearText:
    """Tokens of each position, linear in the latent: one least-squares classifier a position.

    Args:
        weight: float32 [L, D + 1, V], the last row the bias.
        strength: the ridge that was chosen.
    """

    def __init__(self, weight: Tensor, strength: float):
        self.weight, self.strength = weight, strength

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents [N, ...] → token rows int64 [N, L]."""
        x = _with_one(latents.float().flatten(1))
        return torch.stack([(x @ w).argmax(1) for w in self.weight], 1)

    @classmethod
    def fit(
        cls,
        latents: Tensor,
        ids: Tensor,
        val_latents: Tensor,
        val_ids: Tensor,
        *,
        vocabulary: int,
        strengths: Sequence[float] = LINEAR_STRENGTHS,
    ) -> "LinearText":
        """Fit on *normalized* training latents [M, ...] and their token rows [M, L]; of
        ``strengths`` the one with the best content accuracy on validation texts. Weights take
        4 L (D + 1) V bytes (0.4 GB for 32 x 384 x 8,192).

        Raises:
            UserError: NaN, or another number of latents than texts.
        """
        x = _with_one(_paired(latents, check_ids(ids, "ids")))
        gram = x.T @ x
        scale = gram.diagonal()[:-1].mean()
        best: tuple[float, LinearText] | None = None
        hidden = torch.ones_like(val_ids, dtype=torch.bool)
        for strength in strengths:
            ridge = torch.full((len(gram),), strength, dtype=x.dtype) * scale
            ridge[-1] = 0  # the bias is free
            pull = torch.linalg.solve(gram + torch.diag(ridge), x.T).float()  # [D + 1, M]
            weight = torch.stack([_summed(pull, column, vocabulary) for column in ids.unbind(1)])
            made = cls(weight, strength)
            score = content_accuracy(made(val_latents), val_ids, hidden)
            if best is None or score > best[0]:
                best = score, made
        if best is None:
            raise ValueError("no strengths to choose from")
        return best[1]


def _summed(pull: Tensor, labels: Tensor, classes: int) -> Tensor:
    """pull [E, M] times one-hot labels [M]: float32 [E, classes]."""
    return pull.new_zeros(len(pull), classes).index_add_(1, labels, pull)


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)
