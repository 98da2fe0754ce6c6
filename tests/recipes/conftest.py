"""Runs that several files look at: making one takes longer than most of what is asked of it."""

import shutil

import pytest

from helpers.small_mmreg import ARGS
from latentsmith.cli import main


@pytest.fixture(scope="session")
def mmreg_cache(tmp_path_factory):
    """Where the caches of these runs lie."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def mmreg_early(tmp_path_factory, mmreg_cache):
    """A run of mmreg that ended before Stage C. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("early") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTSMITH_CACHE", str(mmreg_cache))
        assert main([*ARGS, "--until", "measure", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def mmreg_whole(mmreg_early, tmp_path_factory, mmreg_cache):
    """The same run, gone on with to its end. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(mmreg_early, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTSMITH_CACHE", str(mmreg_cache))
        assert main([*ARGS, "--out", str(folder)]) == 0
    return folder
