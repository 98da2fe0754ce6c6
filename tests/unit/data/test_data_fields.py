"""Coordinates, lattice fields and what a training step draws from them."""

import pytest
import torch
import torch.nn.functional as F

from latentsmith.data.fields import (
    Field,
    FieldSamplingConfig,
    ImageField,
    LatticeField,
    axis,
    cell,
    cell_of,
    grid,
    observe,
)
from latentsmith.data.fields.patterns import PATTERNS
from latentsmith.data.fields.patterns.block import BlockConfig
from latentsmith.data.fields.patterns.fixed import FixedConfig
from latentsmith.data.fields.patterns.grid import along_axes
from latentsmith.data.fields.sampling import log_uniform
from latentsmith.data.fields.shapes import ShapesField
from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.shapes.render import render
from latentsmith.errors import UserError
from latentsmith.utils.seeding import generator

SIZES = [(12,), (12, 9), (6, 4, 9)]


def draw(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_coarse_grids_are_inside_fine_ones_bit_for_bit(dims):
    fine, coarse = grid(24, dims).view(*[24] * dims, dims), grid(8, dims)
    assert torch.equal(fine[(slice(1, None, 3),) * dims].reshape(-1, dims), coarse)
    assert torch.equal(axis(96)[1::3], axis(32)) and torch.equal(axis(7), -axis(7).flip(0))


def test_grids_are_in_the_raster_order_of_arrays():
    values = torch.arange(15.0).view(1, 1, 3, 5)
    points = grid((3, 5))
    assert torch.equal(points[7], torch.tensor([0.0, 0.0]))  # row 1 of 3, column 2 of 5
    assert torch.equal(cell_of(points, (3, 5)), torch.arange(15))
    assert torch.equal(ImageField(values).at(points[None], (3, 5)).flatten(), values.flatten())
    assert torch.equal(cell((4, 8)), torch.tensor([0.5, 0.25]))
    assert cell_of(torch.tensor([[-1.0, -1], [1, 1], [0.99, -0.99]]), 4).tolist() == [0, 15, 12]


def numeric_mean(values, point, resolution, fine=960):
    """Mean over a box by counting points of a fine grid: values [*size], point [d]."""
    inside = []
    for c in point.tolist():
        x = axis(fine).double()
        inside.append((x - c).abs() <= 1 / resolution)
    fine_values = values
    for dim, n in enumerate(values.shape):
        fine_values = fine_values.repeat_interleave(fine // n, dim)
    for dim, keep in enumerate(inside):
        fine_values = fine_values.index_select(dim, keep.nonzero()[:, 0])
    return fine_values.mean()


@pytest.mark.parametrize("size", [(12,), (12, 8)])
def test_reads_are_means_over_boxes(size):
    values = draw(1, 2, *size)
    field = LatticeField(values)
    points = draw(1, 20, len(size), seed=1)
    for resolution in (3, 5, min(size)):
        found = field.at(points, resolution)[0]
        for k, point in enumerate(points[0]):
            for channel in range(2):
                slow = numeric_mean(values[0, channel], point, resolution)
                assert abs(float(found[k, channel] - slow)) < 0.03  # the counting's own error


@pytest.mark.parametrize("size", SIZES)
def test_lattices_are_reads_at_their_points(size):
    field = LatticeField(draw(2, 3, *size).double())
    assert isinstance(field, Field)
    for resolution in (3, 4):
        points = grid(resolution, len(size)).expand(2, -1, -1)
        read = field.at(points, resolution).transpose(1, 2)
        torch.testing.assert_close(read, field.lattice(resolution).flatten(2), rtol=0, atol=1e-7)
    assert field.lattice(size) is field.values


def test_divisors_give_the_area_average():
    images = draw(2, 3, 96, 96).double()
    torch.testing.assert_close(ImageField(images).lattice(32), F.avg_pool2d(images, 3))
    whole = ImageField(images).lattice(64).repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(F.avg_pool2d(whole, 6), F.avg_pool2d(images, 3))


def test_at_its_own_resolution_a_field_interpolates_linearly():
    images = draw(2, 3, 8, 8).double()
    points = draw(2, 50, 2, seed=1).double() * (1 - 1 / 8)  # within the outer pixel centers
    slow = F.grid_sample(images, points.flip(-1)[:, :, None], align_corners=False)
    fast = ImageField(images).at(points, 8)
    torch.testing.assert_close(fast, slow[..., 0].transpose(1, 2), rtol=0, atol=1e-12)


def test_enlarged_images_are_no_truth():
    field = ImageField(draw(1, 3, 32, 32))
    for ask in (lambda: field.lattice(96), lambda: field.at(draw(1, 4, 2), 96)):
        with pytest.raises(UserError, match=r"no truth at resolution 96 x 96.*32 x 32.*enlarged"):
            ask()
    with pytest.raises(UserError, match=r"images must be \[B, C, H, W\], got \[3, 8, 8\]"):
        ImageField(draw(3, 8, 8))
    with pytest.raises(UserError, match="floating point"):
        LatticeField(torch.zeros(1, 1, 4, dtype=torch.uint8))
    with pytest.raises(UserError, match="1, 2 or 3 dimensions, not 4"):
        grid(3, 4)
    with pytest.raises(UserError, match="resolution"):
        grid((3, 4, 5), 2)


def test_shapes_are_what_the_renderer_draws_at_every_resolution():
    data = ShapesConfig(val_count=24).build("val", None)
    field = ShapesField(data.factors(torch.arange(24)))
    assert isinstance(field, Field)
    for resolution in (32, 96):
        drawn = render(data.scenes(torch.arange(24)), resolution)
        found = (field.lattice(resolution) + 1) * 127.5
        assert (found - drawn).abs().max() < 0.51  # the rounding to 8 bits
    with pytest.raises(UserError, match="turn missing"):
        ShapesField({k: v for k, v in field.factors.items() if k != "turn"})
    with pytest.raises(UserError, match="squares"):
        field.lattice((32, 16))


@pytest.mark.parametrize("name", PATTERNS.names())
@pytest.mark.parametrize("size", SIZES)
def test_patterns_choose_points_once(name, size):
    total = torch.tensor(size).prod().item()
    pattern = PATTERNS[name].config().build()
    for count in (1, 5, total // 2, total):
        index = pattern.pick(6, size, count, generator(0))
        assert index.dtype == torch.int64 and index.shape[0] == 6
        assert 1 <= index.shape[1] <= total and 0 <= index.min() <= index.max() < total
        assert all(len(row.unique()) == len(row) for row in index)
        if name in ("random", "fixed"):
            assert index.shape[1] == count
        assert torch.equal(index, pattern.pick(6, size, count, generator(0)))
        if name != "fixed" and count == 5:
            assert not torch.equal(index, pattern.pick(6, size, count, generator(1)))


def test_fixed_points_are_the_same_for_all_and_of_fewer_among_those_of_more():
    pattern = FixedConfig().build()
    few, many = (pattern.pick(3, (8, 8), n, generator(n)) for n in (10, 20))
    assert torch.equal(few, many[:, :10]) and torch.equal(few[0], few[2])
    assert not torch.equal(few, FixedConfig(seed=1).build().pick(3, (8, 8), 10, generator(0)))


def test_grids_are_even_and_near_the_number_asked_for():
    assert along_axes((32, 32), 256) == [16, 16] and along_axes((64, 16), 64) == [16, 4]
    index = PATTERNS["grid"].config().build().pick(50, (32, 32), 205, generator(0))
    assert abs(index.shape[1] - 205) < 15
    rows = (index // 32).float().mean(1)
    assert abs(float(rows.mean()) - 15.5) < 0.3 and rows.std() > 0  # shifted, to neither side


def test_nothing_is_known_in_the_block():
    index = BlockConfig(missing=0.25).build().pick(8, (16, 16), 192, generator(0))
    known = torch.zeros(8, 256, dtype=torch.bool).scatter_(1, index, True).view(8, 16, 16)
    assert index.shape[1] == 192  # everything outside 8 x 8
    for row in ~known:
        at = row.nonzero()
        assert len(at) == 64 and ((at.amax(0) - at.amin(0)) == 7).all()
    few = BlockConfig(missing=0.5).build().pick(8, (16, 16), 300, generator(0))
    assert few.shape[1] == 256 - 11 * 11


def sample(seed=0, field=None, **settings):
    field = ImageField(draw(4, 3, 24, 24)) if field is None else field
    cfg = FieldSamplingConfig(**{"resolution": 12, "inputs": (8, 100), **settings})
    return cfg.build()(field, generator(seed)), field


@pytest.mark.parametrize("seed", range(6))
def test_a_step_sees_inputs_and_queries_that_never_meet(seed):
    batch, field = sample(seed)
    n, m = batch.input_coordinates.shape[1], batch.query_coordinates.shape[1]
    assert 8 <= n <= 100 and 64 <= m <= 1024
    assert batch.input_values.shape == (4, n, 3) and batch.query_values.shape == (4, m, 3)
    assert batch.on_lattice == min(m - round(m * 0.5), 144 - n)
    for b in range(4):
        inputs = {tuple(c) for c in batch.input_coordinates[b].tolist()}
        queries = [tuple(c) for c in batch.query_coordinates[b].tolist()]
        assert not inputs & set(queries)
        assert len(set(queries)) == m
    lattice = {tuple(c) for c in grid(12).tolist()}
    on = batch.query_coordinates[:, : batch.on_lattice].flatten(0, 1).tolist()
    assert {tuple(c) for c in on} <= lattice
    for where, what in (
        (batch.input_coordinates, batch.input_values),
        (batch.query_coordinates, batch.query_values),
    ):
        torch.testing.assert_close(what, field.at(where, 12), rtol=0, atol=1e-6)


def test_steps_differ_and_repeat():
    first, _ = sample(0)
    again, _ = sample(0)
    other, _ = sample(1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(vars(first).values(), vars(again).values(), strict=True)
        if isinstance(a, torch.Tensor)
    )
    assert first.input_coordinates.shape != other.input_coordinates.shape or not torch.equal(
        first.input_coordinates, other.input_coordinates
    )
    rows = first.input_coordinates
    assert not torch.equal(rows[0], rows[1])  # every signal has points of its own


def test_all_points_can_be_known_and_then_queries_lie_between():
    batch, _ = sample(inputs=(144, 144), queries=(50, 50))
    assert batch.input_values.shape[1] == 144 and batch.on_lattice == 0
    assert batch.query_values.shape[1] == 50


def test_queries_can_all_lie_on_the_lattice_or_none():
    on, _ = sample(off_lattice=0.0, queries=(40, 40))
    off, _ = sample(off_lattice=1.0, queries=(40, 40))
    assert (on.on_lattice, off.on_lattice) == (40, 0)
    assert on.query_values.shape == off.query_values.shape == (4, 40, 3)


@pytest.mark.parametrize("size", [(40,), (8, 8, 8)])
def test_lines_and_volumes_are_sampled_too(size):
    field = LatticeField(draw(2, 1, *size))
    batch, _ = sample(field=field, resolution=8, inputs=(4, 4), queries=(6, 6))
    assert batch.input_coordinates.shape == (2, 4, len(size))
    assert batch.query_values.shape == (2, 6, 1)


def test_counts_are_log_uniform():
    rng = generator(0)
    counts = torch.tensor([float(log_uniform(10, 1000, rng)) for _ in range(2000)])
    assert counts.min() >= 10 and counts.max() <= 1000
    assert abs(float(counts.log10().mean()) - 2) < 0.04
    assert {log_uniform(3, 4, rng) for _ in range(50)} == {3, 4}


def test_observing_says_which_points_are_known():
    field = ImageField(draw(3, 2, 24, 24))
    pattern = PATTERNS["random"].config().build()
    where, what, known = observe(field, 12, 30, pattern, generator(0))
    assert known.sum(1).tolist() == [30] * 3
    values = field.lattice(12).flatten(2).transpose(1, 2)
    for b in range(3):
        assert {tuple(c) for c in where[b].tolist()} == {
            tuple(c) for c in grid(12)[known[b]].tolist()
        }
        torch.testing.assert_close(what[b].sum(0), values[b, known[b]].sum(0))
    with pytest.raises(UserError, match="145 known points of 144"):
        observe(field, 12, 145, pattern, generator(0))


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match=r"inputs is \(9, 3\).*fewest <= most"):
        FieldSamplingConfig(inputs=(9, 3))


def test_symmetries_turn_mirror_and_recolor_whole_images():
    from latentsmith.data.fields.batches import turned

    images = torch.randn(1, 3, 5, 5).expand(200, -1, -1, -1)
    found = turned(images, torch.Generator().manual_seed(0))
    again = turned(images, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
    versions = {image.numpy().tobytes() for image in found}
    assert 40 < len(versions) <= 48  # 8 symmetries, 6 orders of channels
    torch.testing.assert_close(found.flatten(1).sort(1).values, images.flatten(1).sort(1).values)
