"""Warn when OpenMP threads would fight with other processes, and only then."""

import os

import pytest
import torch

from latentsmith.utils import threads


@pytest.mark.parametrize(
    ("cores", "own_threads", "load", "own", "advice"),
    [
        (2, 2, 1.1, 0.0, "OMP_NUM_THREADS=1"),
        (2, 1, 5.0, 0.0, None),
        (2, 2, 0.2, 0.0, None),
        (2, 2, 1.9, 1.8, None),  # the load is this process's own
        (16, 16, 4.0, 0.0, "OMP_NUM_THREADS=12"),
        (16, 8, 4.0, 0.0, None),
        (4, 4, 20.0, 0.0, "OMP_NUM_THREADS=1"),
    ],
)
def test_thread_warning(monkeypatch, cores, own_threads, load, own, advice):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: own_threads)
    monkeypatch.setattr(threads, "own_load", lambda: own)
    warning = threads.thread_warning()
    if advice is None:
        assert warning is None
    else:
        assert warning is not None and warning.endswith(f"Set {advice}")


def test_own_load_is_a_share_of_the_cpu_time():
    assert 0 <= threads.own_load() <= (os.cpu_count() or 1) * 1.5
