"""Runs killed at any instant: the same command goes on, and ends where an unharmed one does, bit
for bit."""

import pytest

from faults.training import RECIPES, kill_training


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_any_instant(nursery, whole, tmp_path, recipe):
    figures = kill_training(nursery, recipe, tmp_path, whole(recipe), instants=8)
    print(f"\n{recipe}: {figures}")
    figures.check(8)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_fifty_times(nursery, whole, tmp_path, recipe):
    figures = kill_training(nursery, recipe, tmp_path, whole(recipe), instants=50, seed=1)
    print(f"\n{recipe}: {figures}")
    figures.check(50)
