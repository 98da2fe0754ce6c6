"""Scattered data: files, units, disjoint draws, the elevation model."""

import numpy as np
import pytest
import torch

from latentsmith.data.fields import FieldSamplingConfig, LatticeField, grid
from latentsmith.data.fields.points import Frame, PointSet, load_lattice, load_points, point_set
from latentsmith.data.fields.terrain import terrain_maps, terrain_stations
from latentsmith.errors import UserError
from latentsmith.utils.seeding import generator


def points(signals=3, count=40, dims=2, channels=2):
    rng = torch.Generator().manual_seed(0)
    where = 100 * torch.rand(signals, count, dims, generator=rng) + 7
    return point_set(where, torch.randn(signals, count, channels, generator=rng) * 5 - 2)


def test_a_frame_fits_and_can_be_undone():
    raw = points()
    frame = Frame.of(raw)
    unit = frame.normalize(raw)
    for x in (unit.coordinates, unit.values):
        torch.testing.assert_close(x.flatten(0, 1).amax(0), torch.ones(2))
        torch.testing.assert_close(x.flatten(0, 1).amin(0), -torch.ones(2))
    torch.testing.assert_close(frame.restore(unit.values), raw.values)
    flat = point_set(torch.ones(1, 3, 1), torch.full((1, 3, 1), 4.0))
    assert Frame.of(flat).normalize(flat).values.abs().max() == 0


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_draws_are_disjoint_and_belong_to_their_signals(dims):
    raw = points(dims=dims)
    unit = Frame.of(raw).normalize(raw)
    batch = unit.draw(FieldSamplingConfig(inputs=(5, 30), queries=(4, 500)), generator(0))
    for b in range(3):
        known, asked = (
            [tuple(c) for c in x[b].tolist()]
            for x in (batch.input_coordinates, batch.query_coordinates)
        )
        assert not set(known) & set(asked) and len(set(known)) == len(known)
        lookup = {
            tuple(c): v
            for c, v in zip(unit.coordinates[b].tolist(), unit.values[b].tolist(), strict=True)
        }
        assert [lookup[c] for c in known] == batch.input_values[b].tolist()
        assert [lookup[c] for c in asked] == batch.query_values[b].tolist()
    assert 5 <= batch.input_values.shape[1] <= 30
    assert batch.on_lattice == batch.query_values.shape[1]


def test_few_points_leave_one_to_ask_for():
    unit = Frame.of(points(count=2)).normalize(points(count=2))
    batch = unit.draw(FieldSamplingConfig(), generator(0))
    assert batch.input_values.shape[1] == batch.query_values.shape[1] == 1
    with pytest.raises(UserError, match="at least 2 points"):
        point_set(torch.zeros(1, 1, 2), torch.zeros(1, 1, 1)).draw(
            FieldSamplingConfig(), generator(0)
        )


def test_files(tmp_path):
    raw = points()
    np.savez(tmp_path / "a.npz", coordinates=raw.coordinates[0], values=raw.values)
    read = load_points(tmp_path / "a.npz")
    assert torch.equal(read.values, raw.values) and read.coordinates.shape == (3, 40, 2)
    np.savez(tmp_path / "one.npz", coordinates=raw.coordinates[0], values=raw.values[0])
    assert load_points(tmp_path / "one.npz").values.shape == (1, 40, 2)
    np.save(tmp_path / "l.npy", np.ones((2, 1, 9, 9)))
    assert LatticeField(load_lattice(tmp_path / "l.npy")).lattice(3).shape == (2, 1, 3, 3)


def test_file_errors(tmp_path):
    np.savez(tmp_path / "a.npz", xy=np.zeros((3, 2)))
    with pytest.raises(UserError, match="no array coordinates and no values; it holds xy"):
        load_points(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    with pytest.raises(UserError, match=r"one array without names.*np\.savez"):
        load_points(tmp_path / "a.npy")
    with pytest.raises(UserError, match="there is no file"):
        load_points(tmp_path / "none.npz")
    with pytest.raises(UserError, match=r"\[S, C, …\] with 1 to 3 axes, it has \[3, 2\]"):
        load_lattice(tmp_path / "a.npy")
    np.save(tmp_path / "nan.npy", np.full((1, 1, 4), np.nan))
    with pytest.raises(UserError, match="NaN"):
        load_lattice(tmp_path / "nan.npy")


def test_points_that_do_not_fit():
    with pytest.raises(UserError, match=r"values must be \[B, N, C\]"):
        PointSet(torch.zeros(1, 3, 2), torch.zeros(1, 4, 1))
    with pytest.raises(UserError, match="d = 1, 2 or 3"):
        PointSet(torch.zeros(1, 3, 4), torch.zeros(1, 3, 1))
    with pytest.raises(UserError, match="values hold NaN"):
        PointSet(torch.zeros(1, 3, 2), torch.full((1, 3, 1), torch.nan))
    with pytest.raises(UserError, match=r"lie in \[-1, 1\], found 7.*Frame"):
        points().draw(FieldSamplingConfig(), generator(0))


def test_stations_measure_the_maps():
    maps, stations = terrain_maps("val"), terrain_stations("val", stations=50)
    assert maps.shape == (18, 1, 64, 64) and 200 < maps.min() < maps.max() < 1100  # meters
    heights = LatticeField(maps).at(stations.coordinates, 64)
    torch.testing.assert_close(heights, stations.values)
    assert len(terrain_maps("train")) == 252
    assert torch.equal(terrain_stations("val", stations=50).coordinates, stations.coordinates)
    assert not torch.equal(stations.coordinates[0], stations.coordinates[1])
    assert {tuple(c) for c in stations.coordinates[0].tolist()} <= {
        tuple(c) for c in grid(64).tolist()
    }
    with pytest.raises(UserError, match="4096 places"):
        terrain_stations("val", stations=5000)
