"""Plug-ins are found by entry point and by path, and one that is broken is said so."""

import os
import re
import subprocess
from pathlib import Path

from helpers.fresh import python

LOSS = """
from typing import Literal

from latentsmith.config.schema import schema
from latentsmith.losses.base import LOSSES, PairLoss, PairLossConfig


class Flat(PairLoss):
    def compare(self, d, r):
        return (d - r).abs().mean()


@LOSSES.register("{name}", help="a loss from outside")
@schema
class {config}(PairLossConfig):
    kind: Literal["{name}"] = "{name}"

    def build(self):
        return Flat(self.distance, self.gather)
"""


def ask(script: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: plug-ins are imported once and for good."""
    known = {k: v for k, v in os.environ.items() if k != "LATENTSMITH_PLUGINS"}
    return python("-c", script, cwd=folder, env={**known, **env})


def test_files_folders_and_installed_ones_are_found(tmp_path):
    (tmp_path / "flat_loss.py").write_text(LOSS.format(name="flat", config="FlatConfig"))
    package = tmp_path / "elsewhere" / "flatter"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from flatter.loss import FlatterConfig\n")
    (package / "loss.py").write_text(LOSS.format(name="flatter", config="FlatterConfig"))
    site = tmp_path / "site"
    info = site / "flattest-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "flattest.py").write_text(LOSS.format(name="flattest", config="FlattestConfig"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flattest\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[latentsmith.plugins]\nx = flattest\n")
    script = (
        "from latentsmith import plugins\n"
        "from latentsmith.config.compose import compose\n"
        "for name in ('flat', 'flatter', 'flattest'):\n"
        "    loss = compose('mmreg', ['scale=smoke', f'loss={name}', 'loss.weight=0.5']).loss\n"
        "    print(loss.kind, loss.weight)\n"
        "print(sorted((p.name, p.origin.split('/')[-1]) for p in plugins.load()))\n"
        "from latentsmith.config.manifest import environment\n"
        "print(sorted(environment()['plugins']))\n"
    )
    done = ask(
        script,
        tmp_path,
        LATENTSMITH_PLUGINS=os.pathsep.join(["flat_loss.py", str(package)]),
        PYTHONPATH=str(site),
    )
    assert done.stdout.splitlines() == [
        "flat 0.5",
        "flatter 0.5",
        "flattest 0.5",
        "[('flat_loss', 'flat_loss.py'), ('flatter', 'flatter'), ('flattest', 'flattest 1.2')]",
        "['flat_loss', 'flatter', 'flattest']",
    ], done.stderr


def test_the_examples_of_contributing_are_plugins_as_they_are(tmp_path):
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    blocks = re.findall(
        r"^```python\n# src/latentsmith/(\w+)/(\w+)\.py\n(.*?)^```", page, re.M | re.S
    )
    examples = {name: text for family, name, text in blocks if family != "recipes"}
    assert set(examples) == {"cosine", "edges", "waves", "norms"}
    for name, text in examples.items():
        (tmp_path / f"{name}.py").write_text(text)
    script = (
        "from latentsmith.config.compose import compose\n"
        "from latentsmith.metrics.registry import METRICS\n"
        "words = ['loss=cosine', 'encoder=edges', 'data=waves', 'transform.channels=1']\n"
        "config = compose('mmreg', ['scale=smoke', *words, 'autoencoder.in_channels=1'])\n"
        "print(config.loss.kind, config.encoder.kind, config.data.kind)\n"
        "print(METRICS['norm_correlation'].help)\n"
    )
    paths = os.pathsep.join(f"{name}.py" for name in examples)
    done = ask(script, tmp_path, LATENTSMITH_PLUGINS=paths)
    assert done.stdout.splitlines() == [
        "cosine edges waves",
        "correlation of latents' and references' distances from their centers",
    ], done.stderr


def test_a_broken_one_is_named_and_the_others_serve(tmp_path):
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "broken.py").write_text("import no_such_module\n")
    (folder / "twice.py").write_text(LOSS.format(name="pearson", config="Other"))
    (folder / "json.py").write_text("")
    (folder / "good.py").write_text(LOSS.format(name="flat", config="FlatConfig"))
    script = (
        "import latentsmith.losses.correlation\n"
        "from latentsmith.cli import main\n"
        "print(main(['list', 'losses', 'flat']))\n"
        "print(main(['list', 'losses', 'flat']))\n"
    )
    names = ["broken.py", "twice.py", "json.py", "good.py", "nowhere"]
    paths = os.pathsep.join(f"plugins/{name}" for name in names)
    done = ask(script, tmp_path, LATENTSMITH_PLUGINS=paths)
    assert done.stdout.splitlines() == ["2", "flat  a loss from outside", "0"], done.stderr
    told = done.stderr
    assert "the plug-in broken" in told and "No module named 'no_such_module'" in told
    assert "'pearson' is registered twice: by latentsmith.losses.correlation and twice" in told
    assert "but the name 'json' belongs to" in told and "rename it" in told
    assert "nowhere, which is neither a folder with an __init__.py nor a .py file" in told
