"""Writers of stores killed at any instant: nothing that was safe is lost, nothing is made twice."""

import pytest

from faults.writing import kill_at_every_step, kill_at_random


@pytest.mark.parametrize(("backend", "every", "tried"), [("shards", 3, 17), ("lmdb", 1, 8)])
def test_killed_at_steps(nursery, tmp_path, backend, every, tried):
    """`benchmarks/faults.py` kills at each of them."""
    figures = kill_at_every_step(nursery, tmp_path, backend, every=every)
    print(f"\n{backend}, at steps of writing: {figures}")
    figures.check(tried)
    assert figures.finished == figures.tried


@pytest.mark.slow
def test_killed_at_every_step(nursery, tmp_path):
    figures = kill_at_every_step(nursery, tmp_path, "shards")
    print(f"\nshards, at every step of writing: {figures}")
    figures.check(50)


@pytest.mark.parametrize("backend", ["shards", "lmdb"])
def test_killed_by_the_clock(nursery, tmp_path, backend):
    figures = kill_at_random(nursery, tmp_path, backend, instants=25)
    print(f"\n{backend}, by the clock: {figures}")
    figures.check(25)
