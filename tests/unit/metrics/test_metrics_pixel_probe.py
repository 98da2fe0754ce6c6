"""The classifier of pixels: as one on features of full size, without ever making them."""

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from latentsmith.errors import UserError
from latentsmith.metrics import pixel_probe
from latentsmith.metrics.pixel_probe import PixelProbe, features_at, fit_pixel_probe
from latentsmith.metrics.probes import L2_GRID
from latentsmith.metrics.segmentation import mean_iou


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scenes(n=24, side=12, seed=0):
    """A square of one of three classes on the background 0, int64 [n, side, side]."""
    gen = torch.Generator().manual_seed(seed)
    labels = torch.zeros(n, side, side, dtype=torch.int64)
    for image in labels:
        top, left = torch.randint(side - 5, (2,), generator=gen).tolist()
        image[top : top + 6, left : left + 6] = 1 + torch.randint(3, (), generator=gen)
    return labels


def one_hot(labels):
    return F.one_hot(labels, 4).permute(0, 3, 1, 2).double()


def in_batches(maps, labels, size):
    return zip(maps.split(size), labels.split(size), strict=True)


@pytest.mark.parametrize("size", [(12, 20), (5, 7), (3, 4), (2, 9)])
def test_features_at_pixels_are_the_resized_map_s(size):
    maps = draw(3, 6, 5, 7)
    area = size[0] * size[1]
    where = torch.stack([torch.randperm(area) for _ in range(3)])
    dense = F.interpolate(maps, size, mode="bilinear").flatten(2).mT  # [B, H W, D]
    want = dense.gather(1, where[..., None].expand(-1, -1, 6))
    torch.testing.assert_close(features_at(maps, where, size), want, rtol=1e-12, atol=1e-12)


def test_classes_of_features_of_full_size():
    """Classifier first and resizing then, or the other way round."""
    maps, probe = draw(4, 6, 5, 7), PixelProbe(draw(7, 3, seed=1), torch.tensor([0, 4, 9]))
    dense = F.interpolate(maps, (15, 11), mode="bilinear")
    want = torch.empty(4, 15, 11, dtype=torch.int64)
    for b in range(4):
        for row in range(15):
            for col in range(11):
                scores = dense[b, :, row, col] @ probe.weight[:-1] + probe.weight[-1]
                want[b, row, col] = (0, 4, 9)[int(scores.argmax())]
    assert torch.equal(probe.predict(maps, (15, 11)), want)
    assert torch.equal(probe.predict(maps.float(), (15, 11)), want)


def test_the_fit_is_a_logistic_regression_on_full_size_features():
    """All pixels drawn: scikit-learn, given them at full size, gives the same probabilities at one
    of the strengths."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    labels = scenes(20, 8)
    maps = F.avg_pool2d(one_hot(labels), 2) + 0.7 * draw(20, 4, 4, 4) + 100
    probe = fit_pixel_probe([(maps, labels)], pixels=64)
    x = F.interpolate(maps, (8, 8), mode="bilinear").permute(0, 2, 3, 1).reshape(-1, 4)
    got = (x @ probe.weight[:-1] + probe.weight[-1]).softmax(1)
    scaled = StandardScaler().fit_transform(x.numpy())
    gaps = []
    for l2 in L2_GRID:
        oracle = LogisticRegression(C=1 / (l2 * len(x)), max_iter=5000, tol=1e-10)
        oracle.fit(scaled, labels.flatten().numpy())
        gaps.append(abs(got.numpy() - oracle.predict_proba(scaled)).max())
    assert min(gaps) < 5e-3, gaps


def test_maps_that_are_the_classes_are_read_without_error_and_shuffled_ones_say_nothing():
    train, test = scenes(60), scenes(60, seed=1)
    probe = fit_pixel_probe([(one_hot(train), train)])
    assert mean_iou(probe.predict(one_hot(test), (12, 12)), test) == 1
    other = torch.arange(60).roll(1)
    chance = mean_iou(torch.zeros_like(test), test)
    unpaired = fit_pixel_probe([(one_hot(train[other]).flip(2, 3).mT, train)])
    found = unpaired.predict(one_hot(test[other]).flip(2, 3).mT, (12, 12))
    assert mean_iou(found, test) == pytest.approx(chance, abs=0.08)
    assert chance < 0.2


def test_batches_do_not_matter():
    labels, maps = scenes(30), draw(30, 5, 6, 6, dtype=torch.float32)
    whole = fit_pixel_probe([(maps, labels)], pixels=9)
    for size in (1, 7):
        part = fit_pixel_probe(in_batches(maps, labels, size), pixels=9)
        torch.testing.assert_close(part.weight, whole.weight, rtol=1e-4, atol=1e-5)
        found = torch.cat([whole.predict(x, (12, 12)) for x in maps.split(size)])
        assert torch.equal(found, whole.predict(maps, (12, 12)))


def test_the_seed_and_nothing_else_draws_the_pixels():
    labels, maps = scenes(30), draw(30, 5, 6, 6)
    state = torch.random.get_rng_state()
    first, again, other = (
        fit_pixel_probe([(maps, labels)], pixels=9, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first.weight, again.weight)
    assert not torch.allclose(first.weight, other.weight)
    assert torch.equal(state, torch.random.get_rng_state())


def test_pixels_drawn_over_classes_are_of_rare_classes_as_often():
    labels = torch.zeros(200, 400, dtype=torch.int64)
    labels[:, :20], labels[:, 20:24] = 7, 2  # 94 %, 5 % and 1 % of the area
    where = pixel_probe._draw(range(200), labels, 6, "classes", seed=0)
    assert where.shape == (200, 6) and all(len(row.unique()) == 6 for row in where)
    found = labels.gather(1, where).flatten()
    assert (found == 0).float().mean() == pytest.approx(1 / 3, abs=0.05)
    assert (found == 7).float().mean() == pytest.approx(1 / 3, abs=0.05)
    first = where[:, 0]  # of the few, one cannot be drawn twice: its class is rarer in what is left
    assert (labels[0][first] == 2).float().mean() == pytest.approx(1 / 3, abs=0.1)
    rows = torch.stack([where[i] for i in (5, 3)])
    assert torch.equal(pixel_probe._draw((5, 3), labels[:2], 6, "classes", seed=0), rows)


def test_a_class_that_is_rare_is_not_lost_to_the_background():
    """Features that tell little: by area the likeliest is the background everywhere."""
    train, test = (scenes(200, 24, seed).clamp(max=1) for seed in (0, 1))
    maps = [x[:, None] + 2.5 * draw(200, 1, 24, 24, seed=n) for n, x in enumerate((train, test))]
    by_area, by_class = (
        fit_pixel_probe([(maps[0], train)], over=over).predict(maps[1], (24, 24))
        for over in ("area", "classes")
    )
    assert (by_area == 0).double().mean() > 0.98 > 0.8 > (by_class == 0).double().mean()


class Largest(TorchFunctionMode):
    """Numbers in the largest tensor any torch function gives."""

    numbers = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


def test_features_of_full_size_are_never_made():
    labels, maps = scenes(16, 48), draw(16, 64, 4, 4, dtype=torch.float32)
    full = maps.shape[0] * maps.shape[1] * labels[0].numel()
    with Largest() as seen:
        probe = fit_pixel_probe(in_batches(maps, labels, 8), pixels=8)
        probe.predict(maps, (48, 48))
    assert 0 < seen.numbers < full / 10


def test_strength_is_chosen_on_images_not_on_pixels(monkeypatch):
    """Neighbouring pixels are nearly equal: held-out ones would say that any fit is right."""
    seen = []

    def spy(x, y, classes, fit, held):
        seen.extend((fit, held))
        return torch.zeros(x.shape[1] + 1, classes)

    monkeypatch.setattr(pixel_probe, "best_logistic", spy)
    fit_pixel_probe([(draw(20, 3, 6, 6), scenes(20))], pixels=7)
    fit, held = (set((rows // 7).tolist()) for rows in seen)
    assert not fit & held and fit | held == set(range(20))
    assert len(seen[0]) == 7 * len(fit) and len(seen[1]) == 7 * len(held) == 7 * 4


def test_constant_features_and_their_scale_do_not_matter():
    labels = scenes(40)
    maps = one_hot(labels) + 0.5 * draw(40, 4, 12, 12)
    base = fit_pixel_probe([(maps, labels)]).predict(maps, (12, 12))
    wide = torch.cat([torch.full_like(maps[:, :1], 5.0), 1e3 * maps + 7], 1)
    found = fit_pixel_probe([(wide, labels)])
    assert found.weight.isfinite().all() and not found.weight[0].any()
    assert (found.predict(wide, (12, 12)) == base).double().mean() > 0.995


def test_labels_need_not_be_contiguous():
    labels = scenes(40)
    probe = fit_pixel_probe([(one_hot(labels), 3 * labels + 2)])
    assert probe.classes.tolist() == [2, 5, 8, 11]
    assert torch.equal(probe.predict(one_hot(labels), (12, 12)), 3 * labels + 2)


def test_refusals():
    labels, maps = scenes(20), draw(20, 3, 6, 6)
    broken = maps.clone()
    broken[5, 0, 0, 0] = torch.nan
    for batches, message in (
        ([(broken, labels)], r"train maps hold NaN .*sample 5"),
        ([(maps[:9], labels[:9])], "at least 10 training images, got 9"),
        ([(torch.ones_like(maps), labels)], "constant"),
        ([(maps, torch.ones_like(labels))], "pixel labels hold a single class"),
        ([(maps[:4], labels)], "train maps and pixel labels must belong to the same samples"),
    ):
        with pytest.raises(UserError, match=message):
            fit_pixel_probe(batches)
    probe = fit_pixel_probe([(maps, labels)])
    with pytest.raises(UserError, match="test maps hold NaN"):
        probe.predict(broken, (12, 12))
    with pytest.raises(UserError, match="train maps are 3 wide and test maps 2"):
        probe.predict(maps[:, :2], (12, 12))
