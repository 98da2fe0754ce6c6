"""Pauses grow, and only so far."""

import pytest

from latentsmith.utils.patience import Pauses


def test_they_grow_and_only_so_far(monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    pauses = Pauses(longest=0.01)
    for _ in range(9):
        pauses.sleep()
    growing, last = slept[:6], slept[6:]
    assert growing == pytest.approx([1e-3 * 1.5**n for n in range(6)]) and set(last) == {0.01}
