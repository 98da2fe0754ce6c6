"""Scattered images: each whole, somewhere, and the same every time."""

import torch

from latentsmith.data.scatter import scatter
from latentsmith.data.transforms import resize


def images(n=40, side=8):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(100, 156, (n, 2, side, side), generator=rng, dtype=torch.uint8)


def test_each_image_lies_whole_somewhere_on_black():
    given = images()
    out = scatter(given, 12, 5, name="a")
    assert out.shape == (40, 2, 12, 12)
    sizes, places, mirrored = set(), set(), 0
    for image, found in zip(given, out, strict=True):
        lit = (found > 0).all(0)  # resized, pixels stay above 0
        rows, columns = lit.any(1).nonzero().flatten(), lit.any(0).nonzero().flatten()
        size = len(rows)
        assert len(columns) == size
        top, left = int(rows[0]), int(columns[0])
        part = found[:, top : top + size, left : left + size]
        small = resize(image, (size, size))
        assert torch.equal(part, small) or torch.equal(part, small.flip(-1))
        mirrored += not torch.equal(part, small)
        assert int((found > 0).sum()) == 2 * size * size
        sizes.add(size)
        places.add((top, left))
    assert sizes == {5, 6, 7, 8}
    assert len(places) > 15
    assert 10 < mirrored < 30


def test_it_depends_on_name_and_number_alone():
    given = images()
    out = scatter(given, 12, 5, name="a")
    assert torch.equal(out[:10], scatter(given[:10], 12, 5, name="a"))
    assert not torch.equal(out, scatter(given, 12, 5, name="b"))
    state = torch.random.get_rng_state()
    scatter(given, 12, 5, name="a")
    assert torch.equal(state, torch.random.get_rng_state())


def test_all_of_one_size_without_room_only_mirrors():
    given = images(6)
    out = scatter(given, 8, 8, name="a")
    for image, found in zip(given, out, strict=True):
        assert torch.equal(found, image) or torch.equal(found, image.flip(-1))
