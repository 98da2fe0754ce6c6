"""Streaming PCA against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from latentsmith.encoders import streaming_pca
from latentsmith.encoders.pixel_pca import PixelPCAConfig
from latentsmith.encoders.streaming_pca import CovarianceStream, IncrementalStream
from latentsmith.errors import UserError


def decaying(n: int, dim: int, seed: int = 0, power: float = 1.0) -> torch.Tensor:
    """Rows with a decaying spectrum (as images have) and a mean far from zero [n, dim]."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    scales = (1 + torch.arange(dim, dtype=torch.float64)) ** -power
    rows = torch.randn(n, dim, generator=generator, dtype=torch.float64) * scales
    return (rows @ axes.T + 5).float()


def oracle(rows: torch.Tensor, k: int) -> PCA:
    return PCA(k, svd_solver="full").fit(rows.double().numpy())


def largest_angle(a: torch.Tensor, b: np.ndarray) -> float:
    """Sine of the largest principal angle between two row spaces."""
    a = a.double().numpy()
    return float(np.linalg.norm(a - a @ b.T @ b, 2))


@pytest.mark.parametrize("stream_class", [CovarianceStream, IncrementalStream])
@pytest.mark.parametrize("sizes", [[500], [1, 3, 7, 489], [64] * 7 + [52]])
def test_streams_equal_scikit_learn(stream_class, sizes, monkeypatch):
    monkeypatch.setattr(streaming_pca, "CHUNK_BYTES", 0)  # many incremental updates
    rows = decaying(500, 40)
    stream = stream_class(40, 6)
    for part in rows.split(sizes):
        stream.update(part)
    ours, theirs = stream.finish(), oracle(rows, 6)
    exact = stream_class is CovarianceStream
    assert ours.count == 500
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-6)
    np.testing.assert_allclose(
        ours.variance, theirs.explained_variance_, rtol=1e-6 if exact else 1e-2
    )
    assert largest_angle(ours.axes, theirs.components_) < (1e-5 if exact else 0.1)
    np.testing.assert_allclose(ours.axes @ ours.axes.T, np.eye(6), atol=1e-5)
    total = theirs.explained_variance_.sum() / theirs.explained_variance_ratio_.sum()
    assert ours.total_variance == pytest.approx(total, rel=1e-5)


def test_incremental_stream_is_exact_when_nothing_is_cut():
    """Data of rank 10 fit into the kept rank (2 * 6 + 16): no approximation is left."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(300, 10, generator=generator))[0]
    scales = torch.arange(10, 0, -1.0)
    rows = torch.randn(400, 10, generator=generator) * scales @ axes.T + 1
    stream = IncrementalStream(300, 6)
    stream.chunk = 50
    for part in rows.split(37):
        stream.update(part)
    ours, theirs = stream.finish(), oracle(rows, 6)
    assert largest_angle(ours.axes, theirs.components_) < 1e-4
    np.testing.assert_allclose(ours.variance, theirs.explained_variance_, rtol=1e-4)


def test_incremental_stream_never_holds_more_than_a_chunk():
    stream = IncrementalStream(300, 5)
    stream.chunk = 40
    for part in decaying(400, 300).split(20):
        stream.update(part)
        held = len(stream.factor) + sum(len(rows) for rows in stream.waiting)
        assert held <= stream.kept + stream.chunk


def images(n: int = 120, seed: int = 0) -> torch.Tensor:
    """[n, 1, 8, 8] in [0, 1]."""
    rows = decaying(n, 64, seed)
    return ((rows - rows.min()) / (rows.max() - rows.min())).view(n, 1, 8, 8)


@pytest.mark.parametrize("whiten", [False, True])
def test_encoder_projects_as_scikit_learn(whiten):
    x = images()
    encoder = PixelPCAConfig(components=7, whiten=whiten).build()
    assert encoder.needs_fit
    encoder.fit(x.split(33))
    oracle_pca = PCA(7, svd_solver="full", whiten=whiten).fit(x.flatten(1).double().numpy())
    want = oracle_pca.transform(x.flatten(1).double().numpy())
    np.testing.assert_allclose(encoder.vector(x), want, atol=1e-3 if whiten else 1e-5)
    ratio = encoder.explained_variance_ratio
    np.testing.assert_allclose(ratio, oracle_pca.explained_variance_ratio_, rtol=1e-4)
    if whiten:
        np.testing.assert_allclose(encoder.vector(x).std(0), np.ones(7), rtol=1e-3)


def test_save_and_load_give_the_same_vectors(tmp_path):
    x = images()
    first = PixelPCAConfig(components=7).build().fit([x])
    path = first.save(tmp_path / "fit.safetensors")
    second = PixelPCAConfig(components=7, state=str(path)).build()
    assert not second.needs_fit
    assert torch.equal(first.vector(x), second.vector(x))
    assert first.digest() == second.digest()
    assert torch.equal(first.explained_variance_ratio, second.explained_variance_ratio)
    fewer = PixelPCAConfig(components=3, state=str(path)).build()
    torch.testing.assert_close(fewer.vector(x), first.vector(x)[:, :3])
    with pytest.raises(UserError, match="holds 7 components, the setting asks for 9"):
        PixelPCAConfig(components=9, state=str(path)).build()


def test_fitting_stops_at_max_images():
    def endless():
        yield images(30)
        yield images(30, seed=1)
        raise AssertionError("asked for more than max_images")

    encoder = PixelPCAConfig(components=4, max_images=50).build().fit(endless())
    assert encoder.count == 50


def test_resolution_resizes_before_the_fit():
    encoder = PixelPCAConfig(components=4, resolution=4).build().fit([images()])
    assert encoder.fingerprint()["size"] == [1, 4, 4]
    assert encoder.vector(torch.rand(2, 1, 13, 9)).shape == (2, 4)


def test_unfitted_encoder_says_so():
    encoder = PixelPCAConfig(components=4).build()
    for use in (lambda: encoder.vector(images(2)), encoder.digest, encoder.fingerprint):
        with pytest.raises(UserError, match=r"has not been fitted: call fit\("):
            use()


@pytest.mark.parametrize(
    ("components", "batches", "message"),
    [
        (9, [images(9)], "more images than components to fit: got 9 for 9"),
        (9, [], "got 0 for 9"),
        (65, [images()], "set components to 64 or fewer"),
        (4, [torch.rand(9, 1, 8, 8), torch.rand(9, 1, 8, 9)], "set its resolution"),
    ],
)
def test_impossible_fits_are_refused(components, batches, message):
    with pytest.raises(UserError, match=message):
        PixelPCAConfig(components=components).build().fit(batches)


def test_whitening_dead_directions_is_refused():
    flat = images().mean((2, 3), keepdim=True).expand(-1, 1, 8, 8)  # rank one
    with pytest.raises(UserError, match=r"vary in only 1 directions\. Set components to 1"):
        PixelPCAConfig(components=3, whiten=True).build().fit([flat])


def test_damaged_or_foreign_files_are_refused(tmp_path):
    path = tmp_path / "fit.safetensors"
    path.write_bytes(b"not a fit")
    for state in (path, tmp_path / "missing.safetensors"):
        with pytest.raises(UserError, match="cannot load the pixel_pca fit"):
            PixelPCAConfig(state=str(state)).build()


def test_other_channels_than_fitted_are_refused():
    encoder = PixelPCAConfig(components=4).build().fit([images()])
    with pytest.raises(UserError, match="fitted on 1 image channel"):
        encoder.vector(torch.rand(1, 3, 8, 8))


def test_config_refuses_too_few_images():
    with pytest.raises(ValueError, match="use 129 or more"):
        PixelPCAConfig(max_images=100)
