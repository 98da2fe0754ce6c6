"""CLIP score: against a plain loop, and its refusals."""

import math

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.metrics.clip_score import clip_score, clip_score_per_sample
from latentsmith.metrics.registry import METRICS


def pairs(n=20, d=5):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(2, n, d, generator=rng).unbind()


def test_it_is_the_cosine_of_each_pair_and_never_below_zero():
    a, b = pairs()
    for x, y, found in zip(a.tolist(), b.tolist(), clip_score_per_sample(a, b), strict=True):
        dot = sum(p * q for p, q in zip(x, y, strict=True))
        cosine = dot / math.hypot(*x) / math.hypot(*y)
        assert float(found) == pytest.approx(100 * max(cosine, 0), rel=1e-5)
    assert clip_score(a, 3 * a) == pytest.approx(100)
    assert clip_score(a, -a) == 0


def test_chance_is_that_of_other_images_texts():
    a, _ = pairs(200)
    found = METRICS["clip_score"].measure(a, a, stamp=_stamp(), resamples=20)
    assert found.value == pytest.approx(100)
    assert found.baseline < 40


def _stamp():
    from latentsmith.metrics.base import Stamp

    return Stamp(data="here", count=200)


def test_refusals():
    a, b = pairs()
    with pytest.raises(UserError, match="of one CLIP model"):
        clip_score(a, b[:, :3])
    with pytest.raises(UserError, match="text embeddings"):
        clip_score(a, torch.full_like(b, torch.nan))
