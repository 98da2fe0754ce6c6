"""Measures of texts: by hand, and against loops that spell out the definitions."""

import math
from collections import Counter

import pytest
import torch

from latentsmith.data.text.tokens.base import EOS_ID, PAD_ID
from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.text_generation import (
    bleu_per_sample,
    exact_per_sample,
    length_error_per_sample,
    memorized_per_sample,
    rouge_l_per_sample,
    text_distinct_2,
    text_exact,
    token_f1_per_sample,
)
from latentsmith.metrics.text_prediction import content_accuracy, eos_accuracy, latent_use

L = 12


def row(*tokens: int, fill: int = EOS_ID) -> list[int]:
    ended = [*tokens, EOS_ID][:L]
    return ended + [fill] * (L - len(ended))


def rows(*texts: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([row(*text) for text in texts])


def drawn(n: int, seed: int) -> torch.Tensor:
    """Texts of 0 to L tokens out of 5, so that much repeats; what follows EOS is arbitrary."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 8, (n, L), generator=rng)
    ids[torch.rand(n, L, generator=rng) < 0.12] = EOS_ID
    ids[0] = EOS_ID
    ids[1] = 4
    return ids


def words(ids: torch.Tensor) -> list[list[int]]:
    out = []
    for line in ids.tolist():
        ends = [i for i, token in enumerate(line) if token in (EOS_ID, PAD_ID)]
        out.append(line[: ends[0]] if ends else line)
    return out


def naive_bleu(a: list[int], b: list[int]) -> float:
    if not a and not b:
        return 1.0
    total = 1.0
    for n in range(1, 5):
        grams = [Counter(tuple(x[i : i + n]) for i in range(len(x) - n + 1)) for x in (a, b)]
        matches, count = sum((grams[0] & grams[1]).values()), sum(grams[0].values())
        plus = int(n > 1)
        total *= ((matches + plus) / max(count + plus, 1)) ** 0.25
    return total * min(1.0, math.exp(1 - len(b) / max(len(a), 1)))


def naive_rouge(a: list[int], b: list[int]) -> float:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    return 2 * table[-1][-1] / (len(a) + len(b)) if a or b else 1.0


def naive_f1(a: list[int], b: list[int]) -> float:
    x, y = set(a), set(b)
    return 2 * len(x & y) / (len(x) + len(y)) if x or y else 1.0


@pytest.mark.parametrize(
    ("fast", "naive"),
    [
        (bleu_per_sample, naive_bleu),
        (rouge_l_per_sample, naive_rouge),
        (token_f1_per_sample, naive_f1),
        (exact_per_sample, lambda a, b: float(a == b)),
        (length_error_per_sample, lambda a, b: float(abs(len(a) - len(b)))),
    ],
)
def test_against_the_definition(fast, naive, monkeypatch):
    monkeypatch.setattr("latentsmith.metrics.text_overlap._ROWS", 7)  # pieces are joined again
    a, b = drawn(300, 0), drawn(300, 1)
    b[150:] = a[150:]
    b[150:, 5] = 3  # nearly the same
    expected = [naive(x, y) for x, y in zip(words(a), words(b), strict=True)]
    torch.testing.assert_close(fast(a, b), torch.tensor(expected, dtype=torch.float64))
    assert len(set(expected)) > 1


def test_by_hand():
    a, b = rows((3, 4, 4, 5)), rows((3, 4, 6))
    assert token_f1_per_sample(a, b).item() == pytest.approx(2 * 2 / 6)
    assert rouge_l_per_sample(a, b).item() == pytest.approx(2 * 2 / 7)
    # unigrams 2/4, pairs (1 + 1)/(3 + 1), triples 1/3, fours 1/2; no penalty
    assert bleu_per_sample(a, b).item() == pytest.approx((0.5 * 0.5 / 3 / 2) ** 0.25)
    assert length_error_per_sample(a, b).item() == 1


def test_padding_and_what_follows_the_end_never_count():
    text, other = (3, 4, 5), torch.tensor([row(3, 4, 5, fill=PAD_ID)])
    other[0, 7:] = 6
    for measure in (bleu_per_sample, rouge_l_per_sample, token_f1_per_sample, exact_per_sample):
        assert measure(rows(text), other).item() == 1
    assert exact_per_sample(rows((3, 4)), rows((3, 4, 5))).item() == 0
    assert exact_per_sample(rows((3, 4, 5)), rows((3, 4))).item() == 0


def test_rows_of_two_widths():
    a, b = rows((3, 4, 5)), rows((3, 4, 5))[:, :5]
    assert text_exact(a, b) == text_exact(b, a) == 1
    assert bleu_per_sample(b[:, :3], a[:, :3]).item() == 1  # no room for four tokens
    assert rouge_l_per_sample(b, a).item() == 1


def test_a_constant_predictor_has_no_content_accuracy_to_speak_of():
    """Counting fill it would have two thirds."""
    truth = drawn(400, 2)[2:]
    truth = torch.where((truth == EOS_ID).cummax(1).values, EOS_ID, truth)
    truth[:, 5:] = EOS_ID
    guess = torch.full_like(truth, EOS_ID)
    everything = torch.ones_like(truth, dtype=torch.bool)
    assert float((guess == truth).double().mean()) > 0.6
    assert content_accuracy(guess, truth, everything) == 0
    assert eos_accuracy(guess, truth, everything) == 1


def test_content_accuracy_counts_hidden_content_only():
    truth, guess = rows((3, 4, 5), (6, 7)), rows((3, 9, 5), (6, 7, 8))
    hidden = torch.zeros_like(truth, dtype=torch.bool)
    hidden[0, :2] = hidden[1, 1] = hidden[:, 4:] = True
    assert content_accuracy(guess, truth, hidden) == 2 / 3
    hidden[0, 3] = hidden[1, 2] = True
    assert eos_accuracy(guess, truth, hidden) == 1 / 2
    with pytest.raises(UserError, match="at least 1 hidden token"):
        content_accuracy(guess, truth, torch.zeros_like(hidden))
    with pytest.raises(UserError, match="masked be bool"):
        content_accuracy(guess, truth, hidden.long())


def test_the_interval_of_a_ratio_covers_it():
    truth = drawn(500, 3)
    guess = torch.where(torch.rand(truth.shape, generator=torch.manual_seed(0)) < 0.3, 9, truth)
    hidden = torch.ones_like(truth, dtype=torch.bool)
    measured = METRICS["content_accuracy"].measure(guess, truth, hidden, stamp=Stamp("d", 500))
    low, high = measured.interval or (0, 0)
    assert low < 0.7 < high and high - low < 0.1


def test_latent_use():
    own, other = torch.tensor([[1.0, 2.0], [3.0, 3.0]]), torch.tensor([[2.0, 4.0], [3.0, 3.0]])
    assert latent_use(own, other) == 0.75
    assert latent_use(own[:, 0], other[:, 0]) == 0.5
    with pytest.raises(UserError, match="one shape"):
        latent_use(own, other[:1])


def test_distinct_pairs():
    assert text_distinct_2(rows((3, 4, 3, 4))) == 2 / 3
    assert text_distinct_2(rows((3,), (4,))) == 0
    assert text_distinct_2(rows((3, 4), (3, 4))) == 1 / 2
    many = drawn(300, 4)
    assert text_distinct_2(many, texts=50) > text_distinct_2(many)


def test_distinct_pairs_of_a_draw_on_a_gpu(gpu):
    many = drawn(300, 4)
    assert text_distinct_2(many.to(gpu), texts=50) == text_distinct_2(many, texts=50)


def test_memorized_runs_of_four():
    train = rows((3, 4, 5, 6, 7), (8, 8, 8, 8))
    ids = rows((9, 3, 4, 5, 6), (8, 8, 8, 8), (3, 4, 5), (6, 7, 8, 8))
    assert memorized_per_sample(ids, train).tolist() == [0.5, 1, 0]  # the third has no run of four
    assert memorized_per_sample(rows((3,)), train).tolist() == [0]


def test_chance_is_what_texts_of_other_samples_give():
    a = drawn(300, 5)
    measured = METRICS["text_token_f1"].measure(a, a, stamp=Stamp("d", 300), resamples=20)
    others = float(token_f1_per_sample(a, a.roll(1, 0)).mean())
    assert measured.value == 1 and measured.baseline == pytest.approx(others, abs=0.05)


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (torch.zeros(2, 3), r"ids must be int64 \[N, L\], got float32"),
        (torch.zeros(2, dtype=torch.int64), r"got int64 \[2\]"),
        (torch.zeros(0, 3, dtype=torch.int64), "at least 1 text"),
        (torch.zeros(3, 3, dtype=torch.int64), "ids are of 3 texts and ids_ref of 2"),
    ],
)
def test_refusals(ids, told):
    with pytest.raises(UserError, match=told):
        text_exact(ids, torch.zeros(2, 3, dtype=torch.int64))
