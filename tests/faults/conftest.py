"""One nursery for all faults: starting Python costs more than most of them."""

import shutil
import subprocess
from functools import cache

import pytest

from faults import harm  # noqa: F401  puts toy_training on the path
from faults.training import PREPARED, Unharmed, unharmed
from helpers.nursery import Nursery

OWN_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="session")
def may_mount() -> bool:
    """Whether processes may have file systems of their own."""
    found = shutil.which("unshare") is not None
    return found and subprocess.run([*OWN_MOUNTS, "true"], capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def nursery(tmp_path_factory, may_mount):
    """Everything is imported in it; its children share mounts that this process does not see."""
    with Nursery(
        "faults.writing",
        "faults.harm",
        log=tmp_path_factory.mktemp("nursery") / "log",
        env={PREPARED: "1"},
        before=OWN_MOUNTS if may_mount else (),
    ) as started:
        yield started


@pytest.fixture
def mounts(may_mount) -> None:
    """Skips a test that needs them."""
    if not may_mount:
        pytest.skip("no file systems of our own here (unshare)")


@pytest.fixture(scope="session")
def whole(nursery, tmp_path_factory):
    """``whole("mmreg")``: the recipe's run that nobody harmed."""

    def make(recipe: str) -> Unharmed:
        return unharmed(nursery, recipe, tmp_path_factory.mktemp(recipe) / "whole")

    return cache(make)
