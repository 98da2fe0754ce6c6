"""CONTRIBUTING.md's examples: dropped into the package as its checklists say, then composed by
name, held to the contract tests, and run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.fresh import python

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
BLOCK = re.compile(r"^```(?:python|yaml)\n# src/(latentsmith/\S+)\n(.*?)^```", re.M | re.S)

DRIVER = '''
"""latentsmith with the example files in its packages."""
import importlib, json, sys
from pathlib import Path

extra, work = Path(sys.argv[1]), Path(sys.argv[2])
for package in ("losses", "encoders", "data", "metrics", "recipes"):
    importlib.import_module(f"latentsmith.{package}").__path__.append(str(extra / package))

import pytest
from latentsmith.cli import main
from latentsmith.config.compose import compose


class Lines:
    """The lines that the checklists add to contract tests."""

    def pytest_collection_modifyitems(self, items):
        for module in {item.module for item in items}:
            if hasattr(module, "EXAMPLES"):
                made = {"waves": {"train_count": 30, "val_count": 12}}
                module.EXAMPLES["waves"] = lambda root, monkeypatch: made["waves"]
                module.OTHER |= {"waves": {"seed": 1}}
            elif hasattr(module, "make"):
                tiny, rest = {"edges": lambda config: config().build()}, module.make
                module.make = lambda name, folder, **settings: (
                    tiny[name](module.ENCODERS[name].config)
                    if name in tiny else rest(name, folder, **settings)
                )


found = {}
config = compose("mmreg", ["scale=smoke", "loss=cosine", "encoder=edges", "encoder.regions=2",
                           "data=waves", "transform.channels=1", "autoencoder.in_channels=1"])
found["kinds"] = [config.loss.kind, config.encoder.kind, config.data.kind]
found["built"] = [type(config.loss.build()).__name__, config.encoder.build().dim]
found["list"] = main(["list"])
tests = {"losses": "cosine", "encoders": "edges", "datasets": "waves", "metrics": "norm_correl"}
for family, name in tests.items():
    file = f"tests/contracts/test_{family}_contract.py"
    found[family] = int(pytest.main([file, "-k", name, "-p", "no:cacheprovider"], [Lines()]))
run = ["run", "linear", "scale=smoke", "--out", str(work / "linear")]
found["dry run"] = main([*run, "--dry-run"])
found["run"] = [main(run), main(run)]
found["mmreg"] = main(["train", "mmreg.references", "scale=smoke", "encoder=edges", "data=waves",
    "data.train_count=192", "data.val_count=96", "transform.channels=1",
    "autoencoder.in_channels=1", "loss=cosine", "--out", str(work / "mmreg")])
print("FOUND " + json.dumps(found))
'''


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Folder with the page's files, laid out as in ``src/latentsmith``."""
    folder = tmp_path_factory.mktemp("examples")
    for path, text in BLOCK.findall(PAGE):
        file = folder / Path(path).relative_to("latentsmith")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.fixture(scope="module")
def outcome(examples, tmp_path_factory):
    """What the driver found, in a process of its own: registries are for good."""
    work = tmp_path_factory.mktemp("work")
    env = {**os.environ, "LATENTSMITH_CACHE": str(work / "cache")}
    done = python("-c", DRIVER, str(examples), str(work), cwd=ROOT, env=env)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stdout[-4000:] + done.stderr[-4000:]
    return json.loads(lines[0].removeprefix("FOUND ")), done.stdout, work


def test_every_family_has_an_example(examples):
    families = {path.relative_to(examples).parts[0] for path in examples.rglob("*.py")}
    assert families == {"losses", "encoders", "data", "metrics", "recipes"}
    for line in ('"edges": lambda config: config().build()', '"waves": {"seed": 1}'):
        assert line in PAGE and line in DRIVER
    assert '"waves": {"train_count": 30, "val_count": 12}' in PAGE


def test_files_keep_the_house_style(examples):
    ours = "lint.isort.known-first-party = ['latentsmith']"  # its source is not beside them
    settings = ["--config", str(ROOT / "pyproject.toml"), "--config", ours, str(examples)]
    for verb in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *verb, *settings]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_they_are_composed_by_name_and_built(outcome):
    found = outcome[0]
    assert found["kinds"] == ["cosine", "edges", "waves"]
    assert found["built"] == ["CosineLoss", 16]


def test_they_are_listed(outcome):
    found, printed, _ = outcome
    assert not found["list"]
    for name in ("cosine", "edges", "waves", "norm_correlation", "linear"):
        assert re.search(rf"^\s+{name}\s+\S", printed, re.M), f"{name} is not listed"


@pytest.mark.parametrize("family", ["losses", "encoders", "datasets", "metrics"])
def test_they_hold_the_contract(outcome, family):
    found, printed, _ = outcome
    assert found[family] == 0, printed[-6000:]  # 5 would be: no test was found


def test_the_recipe_runs_learns_and_resumes(outcome):
    found, _, work = outcome
    assert found["dry run"] == 0 and found["run"] == [0, 0]
    marker = json.loads((work / "linear" / "stages" / "train.json").read_text())
    assert marker["summary"]["samples"] == 6400
    assert marker["summary"]["accuracy"] > 0.8  # ten classes


def test_the_reference_is_cached_for_a_training(outcome):
    found, _, work = outcome
    assert found["mmreg"] in (0, None)
    assert list((work / "cache" / "references").glob("edges-*/manifest.json"))
