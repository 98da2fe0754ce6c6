"""mIoU and pixel accuracy: against plain loops and scikit-learn, chance, intervals, refusals."""

import math

import numpy as np
import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.intervals import bootstrap_weights, percentiles
from latentsmith.metrics.segmentation import class_iou, label_counts, mean_iou, pixel_accuracy


def draw(n=70, classes=5, seed=0, shape=(6, 9)):
    return torch.randint(classes, (n, *shape), generator=torch.Generator().manual_seed(seed))


def pair(n=70, classes=5):
    """A segmentation that is right in about half of the pixels, and the truth."""
    true = draw(n, classes)
    right = draw(n, 2, seed=1).bool()
    return torch.where(right, true, draw(n, classes, seed=2)), true


def naive_iou(found, true, k):
    both = either = 0
    for a, b in zip(found.flatten().tolist(), true.flatten().tolist(), strict=True):
        both += a == k and b == k
        either += a == k or b == k
    return both / either if either else math.nan


def test_iou_is_a_plain_count():
    found, true = pair()
    each = class_iou(label_counts(found, true).sum(0))
    want = [naive_iou(found, true, k) for k in range(5)]
    assert each.tolist() == pytest.approx(want, rel=1e-12)
    assert mean_iou(found, true) == pytest.approx(sum(want) / 5, rel=1e-12)


def test_as_scikit_learn():
    from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

    found, true = pair()
    a, b = found.flatten().numpy(), true.flatten().numpy()
    assert mean_iou(found, true) == pytest.approx(jaccard_score(b, a, average="macro"), rel=1e-12)
    assert pixel_accuracy(found, true) == pytest.approx(accuracy_score(b, a), rel=1e-12)
    matrix = confusion_matrix(b, a)
    counts = label_counts(found, true)
    assert counts.shape == (70, 3, 5)
    want = np.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)])
    assert np.array_equal(counts.sum(0).numpy(), want)
    one = confusion_matrix(true[68].flatten(), found[68].flatten(), labels=range(5))
    want = np.stack([one.diagonal(), one.sum(0), one.sum(1)])
    assert np.array_equal(counts[68].numpy(), want)  # beyond the first batch


def test_only_classes_that_occur_count():
    true = torch.tensor([[[0, 0], [3, 3]]])
    assert mean_iou(true, true) == 1
    each = class_iou(label_counts(true, true).sum(0))
    assert each[[0, 3]].tolist() == [1, 1] and each[[1, 2]].isnan().all()
    padded = label_counts(true, true, classes=6)
    assert torch.equal(padded[:, :, :4], label_counts(true, true))
    assert padded.shape == (1, 3, 6) and not padded[:, :, 4:].any()
    assert torch.equal(label_counts(true, true, classes=2), label_counts(true, true))
    found = torch.tensor([[[0, 0], [3, 5]]])  # 5 is nowhere, and found: it counts, as 0
    assert mean_iou(found, true) == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_any_integer_dtype_gives_the_same():
    found, true = pair()
    for kind in (torch.uint8, torch.int32):
        for name in ("mean_iou", "pixel_accuracy"):
            a = METRICS[name].measure(found, true, stamp=Stamp("d", 70))
            b = METRICS[name].measure(found.to(kind), true.to(kind), stamp=Stamp("d", 70))
            assert a == b
    found, true = pair(classes=2)
    for name in ("mean_iou", "pixel_accuracy"):
        a = METRICS[name].measure(found, true, stamp=Stamp("d", 70))
        assert METRICS[name].measure(found.bool(), true.bool(), stamp=Stamp("d", 70)) == a


def test_chance_is_the_commonest_class():
    true = torch.zeros(20, 4, 5, dtype=torch.int64)
    true[:, 0, :2], true[:, 0, 2:] = 1, 2  # 40, 60 and of class 0 300 of 400 pixels
    found = draw(20, 3, shape=(4, 5))
    m = {
        n: METRICS[n].measure(found, true, stamp=Stamp("d", 20))
        for n in ("mean_iou", "pixel_accuracy")
    }
    assert m["mean_iou"].baseline == pytest.approx(300 / 400 / 3)
    assert m["pixel_accuracy"].baseline == pytest.approx(300 / 400)
    assert all(x.stamp.detail["chance"] == "commonest class" for x in m.values())


@pytest.mark.parametrize("name", ["mean_iou", "pixel_accuracy"])
def test_intervals_resample_images(name):
    """Each replicate is the metric of a data set in which images come as often as drawn."""
    found, true = pair(30)
    m = METRICS[name].measure(found, true, stamp=Stamp("d", 30), resamples=12, seed=4)
    times = bootstrap_weights(30, 12, 4).long()
    want = [
        METRICS[name](*(x.repeat_interleave(n, 0) for x in (found, true))) for n in times.unbind(1)
    ]
    assert m.draws.tolist() == pytest.approx(want, rel=1e-12)
    assert m.interval == percentiles(m.draws)


@pytest.mark.parametrize("name", ["mean_iou", "pixel_accuracy"])
def test_pixels_of_one_image_make_no_interval_narrower(name):
    """Images that are all right or all wrong: many pixels, yet few samples."""
    true = draw(40)
    wrong = torch.arange(40) % 2 == 0
    found = torch.where(wrong[:, None, None], (true + 1) % 5, true)
    low, high = METRICS[name].measure(found, true, stamp=Stamp("d", 40)).interval
    fine = [x.repeat_interleave(4, 1).repeat_interleave(4, 2) for x in (found, true)]
    finer = METRICS[name].measure(*fine, stamp=Stamp("d", 40)).interval
    assert finer == pytest.approx((low, high)) and high - low > 0.15


@pytest.mark.parametrize("name", ["mean_iou", "pixel_accuracy"])
def test_one_image_has_a_value_and_no_interval(name):
    m = METRICS[name].measure(*pair(1), stamp=Stamp("d", 1))
    assert m.interval is None and 0 < m.value < 1


@pytest.mark.parametrize("measure", [mean_iou, pixel_accuracy])
def test_refusals(measure):
    true = draw(3)
    for found, message in (
        (true.float(), r"predicted_labels must be an integer tensor \[N, H, W\], got float32"),
        (true[0], r"predicted_labels must be an integer tensor \[N, H, W\], got int64 \[6, 9\]"),
        (true - 1, r"predicted_labels hold -1: .* give pixels of no class a class of their own"),
        (true[:, :5], r"predicted_labels \[3, 5, 9\] against pixel_labels \[3, 6, 9\]"),
        (true[:0], "at least 1 pixel, got 0"),
    ):
        with pytest.raises(UserError, match=message):
            measure(found, true)
    with pytest.raises(UserError, match=r"pixel_labels must be an integer tensor .* bfloat16"):
        measure(true, true.bfloat16())
