"""Space-filling orders: against a scalar Hilbert curve, and what a scan relies on."""

import pytest
import torch

from latentsmith.backbones.blocks.curves import (
    BITS,
    CURVES,
    _flat_sort,
    curve_keys,
    order,
    take,
)
from latentsmith.backbones.blocks.hilbert import hilbert_keys
from latentsmith.data.fields.coordinates import grid
from latentsmith.errors import UserError


def draw(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


def skilling(cell, bits):
    """Skilling, Programming the Hilbert curve (2004): a second algorithm, one point at a time."""
    x, n = list(cell), len(cell)
    q = 1 << (bits - 1)
    while q > 1:
        p = q - 1
        for i in range(n):
            if x[i] & q:
                x[0] ^= p
            else:
                t = (x[0] ^ x[i]) & p
                x[0] ^= t
                x[i] ^= t
        q >>= 1
    for i in range(1, n):
        x[i] ^= x[i - 1]
    t, q = 0, 1 << (bits - 1)
    while q > 1:
        if x[n - 1] & q:
            t ^= q - 1
        q >>= 1
    x = [v ^ t for v in x]
    key = 0
    for bit in range(bits - 1, -1, -1):
        for v in x:
            key = (key << 1) | (v >> bit & 1)
    return key


def lattice(side, dims):
    return torch.stack(torch.meshgrid(*[torch.arange(side)] * dims, indexing="ij"), -1).flatten(
        0, -2
    )


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_each_cell_has_a_key_and_neighbours_in_the_order_are_neighbours_in_space(dims):
    cells = lattice(16, dims)
    keys = hilbert_keys(cells, 4)
    assert torch.equal(keys.sort().values, torch.arange(16**dims))
    steps = cells[keys.argsort()].diff(dim=0).abs()
    assert (steps.sum(1) == 1).all()


def test_in_two_dimensions_it_is_the_hilbert_curve():
    """There is one up to symmetry, so another algorithm gives it with the axes in some order."""
    cells = torch.randint(1 << 16, (300, 2), generator=torch.Generator().manual_seed(0))
    ours = hilbert_keys(cells, 16).tolist()
    theirs = [[skilling(c, 16) for c in order.tolist()] for order in (cells, cells.flip(1))]
    assert ours in theirs


@pytest.mark.parametrize("dims", [2, 3])
def test_look_ups_of_several_bits_are_the_curve_bit_by_bit(dims):
    """A finer key starts with the coarser one: the table's states are handed on."""
    cells = torch.randint(1 << 16, (500, dims), generator=torch.Generator().manual_seed(1))
    full = hilbert_keys(cells, 16)
    for bits in (4, 8, 12):
        assert torch.equal(full >> dims * (16 - bits), hilbert_keys(cells >> (16 - bits), bits))


@pytest.mark.parametrize("name", ["hilbert", "hilbert_t"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_points_added_change_nobodys_order(name, dims):
    few = draw(1, 50, dims)
    many = torch.cat([few, draw(1, 400, dims, seed=1)], 1)
    among = order(many, name).permutation[0]
    assert torch.equal(among[among < 50], order(few, name).permutation[0])


def test_the_transposed_curve_is_the_curve_of_transposed_points():
    c = draw(3, 40, 2)
    assert torch.equal(curve_keys(c, "hilbert_t"), curve_keys(c.flip(-1), "hilbert"))
    assert not torch.equal(curve_keys(c, "hilbert_t"), curve_keys(c, "hilbert"))


def test_rows_and_columns_of_a_lattice():
    c = grid((3, 5))[None]
    raster = torch.arange(15)
    assert torch.equal(order(c, "rows").permutation[0], raster)
    assert torch.equal(order(c, "columns").permutation[0], raster.view(3, 5).T.flatten())


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_an_ordering_agrees_with_a_loop(name, dims):
    c = draw(2, 30, dims)
    found = order(c, name)
    keys = curve_keys(c, name)
    whole = 1 << dims * BITS[dims]
    for b in range(2):
        by_key = sorted(range(30), key=lambda i: int(keys[b, i]))
        assert found.permutation[b].tolist() == by_key
        assert [found.inverse[b, i].item() for i in by_key] == list(range(30))
        s = [0.0, *(int(keys[b, i]) / whole for i in by_key), 1.0]
        gaps = torch.tensor(s, dtype=torch.float64).diff()
        torch.testing.assert_close(found.gaps[b].double(), gaps[:-1], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.gaps_back[b].double(), gaps[1:], rtol=1e-6, atol=1e-9)


def test_reversing_is_the_order_read_backwards():
    found = order(draw(2, 30, 2))
    back = found.reversed()
    x = draw(2, 30, 4)
    assert torch.equal(back.sort(x), found.sort(x).flip(1))
    assert torch.equal(back.unsort(back.sort(x)), x)
    assert torch.equal(back.gaps, found.gaps_back.flip(1))
    assert torch.equal(back.gaps_back, found.gaps.flip(1))


def test_points_in_one_place_keep_their_order_and_have_no_gap():
    c = draw(2, 1, 2).expand(-1, 5, -1)
    found = order(torch.cat([c, draw(2, 20, 2)], 1))
    for row, places in zip(found.permutation, found.inverse, strict=True):
        at = places[:5].tolist()
        assert at == list(range(at[0], at[0] + 5))
        assert row[at[0] : at[0] + 5].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(found.gaps.gather(1, found.inverse[:, 1:5]), torch.zeros(2, 4))


def test_weights_are_a_quadrature():
    c = torch.cat([draw(1, 300, 2), draw(1, 700, 2, seed=1).abs()], 1)  # most in one quadrant
    w = order(c).weights()
    assert (w >= 0).all()
    torch.testing.assert_close(w.double().sum(1), torch.ones(1).double(), rtol=0, atol=1e-6)
    x, y = c.unbind(-1)
    for f, true in ((x + 0.3, 0.3), (x * y, 0.0), (y**2, 1 / 3)):
        assert abs(float((w * f).sum()) - true) < 0.03
    assert float(x.mean()) > 0.2  # the plain mean is far off


def test_one_point_weighs_all():
    assert order(draw(3, 1, 2)).weights().tolist() == [[1.0]] * 3


@pytest.mark.parametrize("shared", [False, True])
def test_sorting_tokens_is_differentiable_twice(shared):
    found = order(draw(1 if shared else 3, 7, 2))
    x = torch.randn(3, 7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(found.unsort(found.sort(x)), x)
    rows = found.permutation.expand(3, -1)
    assert torch.equal(found.sort(x), x.gather(1, rows[..., None].expand(-1, -1, 2)))
    assert torch.equal(take(x, found.permutation), found.sort(x))
    assert torch.autograd.gradcheck(found.sort, x)
    assert torch.autograd.gradgradcheck(lambda v: found.unsort(v * v), x)


def test_edges_of_the_domain_have_keys():
    corners = torch.tensor([[[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]]])
    keys = curve_keys(corners)
    assert (keys >= 0).all() and (keys < 1 << 32).all() and len(keys.unique()) == 4


def test_errors():
    with pytest.raises(UserError, match=r"no curve 'hilbrt'.*'hilbert'"):
        order(draw(1, 3, 2), "hilbrt")
    with pytest.raises(UserError, match="1, 2 or 3 dimensions; these points have 4"):
        order(draw(1, 3, 4))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_flat_sort_of_gpus_gives_the_same_order(dims):
    c = draw(5, 300, dims)
    keys = curve_keys(torch.cat([c, c[:, :50]], 1))
    both = zip(_flat_sort(keys, dims * BITS[dims]), keys.sort(dim=1, stable=True), strict=True)
    assert all(torch.equal(flat, rows) for flat, rows in both)
