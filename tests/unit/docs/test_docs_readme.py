"""README's Python: one example for each recipe, at most ten lines, which gives what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
RECIPE = re.compile(r'latentsmith\.run\("(\w+)"')
EXAMPLES = {match[1]: block for block in BLOCKS if (match := RECIPE.search(block))}


def test_every_recipe_that_trains_has_one_of_at_most_ten_lines():
    scales = (ROOT / "src/latentsmith/recipes").glob("*/presets/scale")
    assert set(EXAMPLES) == {folder.parents[1].name for folder in scales}
    for block in EXAMPLES.values():
        assert len([line for line in block.splitlines() if line.strip()]) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("recipe", EXAMPLES)
def test_it_gives_what_it_says(recipe, tmp_path):
    block = EXAMPLES[recipe]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (said,) = re.findall(r"# → (.*)$", block, re.M)
    assert done.stdout.splitlines()[-1] == said
