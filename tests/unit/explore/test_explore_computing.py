"""Projections, errors, neighbours, paths: against SciPy, scikit-learn and cases solved by hand."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from helpers.fields import field_autoencoder
from latentsmith.errors import UserError
from latentsmith.explore.between import walk
from latentsmith.explore.fields import fill
from latentsmith.explore.neighbours import nearest_to
from latentsmith.explore.projection import distance_error, project, turned


def cloud(n=40, d=7, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng, dtype=torch.float64) * torch.arange(1, d + 1)


def rotation(angle):
    c, s = np.cos(angle), np.sin(angle)
    return torch.tensor([[c, -s], [s, c]])


def test_pca_is_that_of_scikit_learn():
    x = cloud()
    theirs = torch.from_numpy(PCA(2).fit_transform(x.numpy()))
    ours = project(x.view(40, 7, 1), "pca")
    signs = torch.sign((ours * theirs).sum(0))
    torch.testing.assert_close(ours * signs, theirs)


def test_pca_of_one_dimension_is_a_line():
    points = project(torch.arange(5.0)[:, None], "pca")
    assert points.shape == (5, 2) and not points[:, 1].any() and points[:, 0].std() > 1


def test_umap_is_asked_for_the_same_map_every_time(monkeypatch):
    asked = {}

    class Stand:
        def __init__(self, **settings):
            asked.update(settings)

        def fit_transform(self, x):
            return x[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Stand, __spec__=object()))
    points = project(cloud(9, 5), "umap", seed=3)
    assert points.shape == (9, 2) and points.dtype == torch.float64
    assert asked["n_neighbors"] == 8 and asked["random_state"] == 3


@pytest.mark.slow  # it compiles itself for half a minute
def test_umap_keeps_groups_apart_and_is_the_same_again():
    pytest.importorskip("umap", reason="umap-learn (extra ui) is not installed")
    groups = torch.cat([cloud(20, 5, seed) * 0.1 + 20 * seed for seed in (1, 2)])
    points = project(groups, "umap", seed=3)
    assert torch.equal(points, project(groups, "umap", seed=3))
    centres = points.view(2, 20, 2).mean(1)
    spread = (points.view(2, 20, 2) - centres[:, None]).norm(dim=2).mean()
    assert (centres[0] - centres[1]).norm() > 2 * spread


def test_umap_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'latentsmith\[ui\]'"):
        project(cloud(), "umap")


@pytest.mark.parametrize(
    ("x", "kind", "why"),
    [
        (torch.tensor([[0.0], [float("nan")], [1.0]]), "pca", "NaN"),
        (torch.zeros(2, 3), "pca", "at least 3 points"),
        (torch.zeros(5, 3), "tsne", "no projection 'tsne'"),
    ],
)
def test_what_makes_no_map_is_refused(x, kind, why):
    with pytest.raises(UserError, match=why):
        project(x, kind)


def test_turning_undoes_turns_and_mirrors_and_stretches_nothing():
    like = cloud(30, 2)
    given = (like @ rotation(2.0) * torch.tensor([1.0, -1.0])) * 3 + 5
    found = turned(given, like)
    torch.testing.assert_close(found, (like - like.mean(0)) * 3)


def test_turning_is_the_best_turn_scipy_finds():
    a, b = cloud(30, 2), cloud(30, 2, seed=1)
    ours = turned(a, b)
    _, theirs, _ = procrustes(b.numpy(), a.numpy())  # also scaled: compare directions only
    np.testing.assert_allclose(ours / ours.norm(), theirs / np.linalg.norm(theirs), atol=1e-12)


def test_distances_in_proportion_have_no_error():
    x = cloud(20, 2)
    error = distance_error(x @ rotation(1.0) * 9 + 2, x)
    assert error.max() < 1e-12


def test_distance_error_is_the_stress_of_a_row():
    z, r = cloud(15, 4), cloud(15, 4, seed=1)
    d, w = cdist(z, z), cdist(r, r)
    scale = (d * w).sum() / (d**2).sum()
    wanted = np.sqrt(((scale * d - w) ** 2).sum(1) / (w**2).sum(1))
    np.testing.assert_allclose(distance_error(z, r), wanted)


def test_the_moved_sample_has_the_largest_error():
    r = cloud(30, 3)
    z = r.clone()
    z[7] += 50
    assert int(distance_error(z, r).argmax()) == 7


def test_collapsed_latents_are_named():
    with pytest.raises(UserError, match="all latents coincide"):
        distance_error(torch.ones(5, 2), cloud(5, 2))


def test_neighbours_are_those_of_scikit_learn():
    x = cloud(50, 6)
    rows, far = nearest_to(x[9].view(2, 3), x.view(50, 2, 3), 5, without=9)
    theirs = NearestNeighbors(n_neighbors=6).fit(x.numpy())
    distances, indices = theirs.kneighbors(x[9:10].numpy())
    assert rows == indices[0, 1:].tolist()
    mean = np.delete(cdist(x[9:10], x)[0], 9).mean()
    np.testing.assert_allclose(far, distances[0, 1:] / mean)


def test_a_new_point_may_have_itself_as_neighbour():
    x = cloud(10, 2)
    rows, far = nearest_to(x[3], x, 1)
    assert rows == [3] and far == [0.0]
    with pytest.raises(UserError, match="ask for 1 to 9"):
        nearest_to(x[3], x, 10, without=3)


def decode(z):
    """Latents [B, 1] → images [B, 1, 2, 2] that are z everywhere."""
    return z.view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_a_straight_decoder_has_a_flat_curve():
    start, end = torch.tensor([0.2], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    found = walk(decode, start, end, lambda x: x.flatten(1), kind="lerp", steps=7)
    torch.testing.assert_close(found.images[:, 0, 0, 0], torch.linspace(0.2, 0.8, 7).double())
    # d/dt = 0.6 everywhere, the speed is its square
    torch.testing.assert_close(found.speeds, torch.full((6,), 0.36, dtype=torch.float64))
    assert found.length == pytest.approx(0.36) and found.unevenness < 1e-9


def test_a_jump_is_a_peak_where_it_is():
    jump = lambda z: decode(torch.sigmoid(200 * (z - 0.65)))  # noqa: E731
    start, end = torch.tensor([0.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    found = walk(jump, start, end, lambda x: x.flatten(1), kind="lerp", steps=11)
    assert int(found.speeds.argmax()) == 6 and found.unevenness > 2


def test_a_path_of_many_steps_has_small_enough_ones():
    ends = torch.tensor([0.0]), torch.tensor([1.0])
    found = walk(decode, *ends, lambda x: x.flatten(1), kind="slerp", steps=150)
    assert len(found.images) == 150 and len(found.speeds) == 149


def test_a_field_is_decoded_at_any_side_from_the_points_that_are_shown():
    image = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0)) * 0.9
    autoencoder = field_autoencoder()
    found = fill(autoencoder, image, points=10, sides=[8, 24, 48], seed=1)
    assert {side: tuple(made.shape) for side, made in found.made.items()} == {
        8: (3, 8, 8), 24: (3, 24, 24), 48: (3, 48, 48),
    }  # fmt: skip
    white = (found.given == 1).all(0)
    assert int((~white).sum()) == 10
    assert set(found.psnr) == {8, 24}  # there is no truth at 48
    other = fill(autoencoder, image, points=10, sides=[8], seed=2)
    assert not torch.equal(other.given, found.given)
    with pytest.raises(UserError, match="give 1 to all"):
        fill(autoencoder, image, points=65, sides=[8], seed=0)
