"""new-recipe: what it writes is a recipe that is found, runs, passes its own tests and keeps the
house style, as a plug-in and in the tree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.fresh import python
from latentsmith.cli import main
from latentsmith.cli._scaffold import in_tree
from latentsmith.errors import UserError

ROOT = Path(__file__).parents[2]
STYLE = ["check"], ["format", "--check"]


@pytest.fixture
def plugin(tmp_path, monkeypatch, capsys):
    """Folder of a fresh plug-in."""
    monkeypatch.chdir(tmp_path)
    assert main(["new-recipe", "my_method"]) == 0
    assert "latentsmith run my_method scale=smoke" in capsys.readouterr().out
    return tmp_path / "my_method"


def ruff(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_plugin_passes_its_own_tests(plugin):
    words = ["-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "."]
    env = {name: value for name, value in os.environ.items() if name != "LATENTSMITH_PLUGINS"}
    done = python(*words, cwd=plugin, env=env)
    assert done.returncode == 0 and "8 passed" in done.stdout, done.stdout + done.stderr


def test_a_plugin_keeps_its_style(plugin):
    for verb in STYLE:
        ruff(*verb, str(plugin))


def test_a_plugin_says_where_it_is_found(plugin):
    import tomllib

    project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    assert project["name"] == "my-method"
    assert project["entry-points"]["latentsmith.plugins"] == {"my_method": "my_method"}


def test_in_the_tree_it_keeps_the_house_style(tmp_path):
    package, test = in_tree("my_method", tmp_path)
    assert "from latentsmith.recipes.my_method.task import" in (package / "stages.py").read_text()
    assert {"README.md", "presets", "config.py"} <= {path.name for path in package.iterdir()}
    ours = "lint.isort.known-first-party=['latentsmith']"
    for verb in STYLE:
        settings = ["--config", str(ROOT / "pyproject.toml"), "--config", ours]
        ruff(*verb, *settings, str(package), str(test))
    with pytest.raises(UserError, match="is there already"):
        in_tree("my_method", tmp_path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("My-Method", "a letter first: my_method"),
        ("3d", "a letter first\n"),
        ("class", "cannot be a recipe's name"),
        ("mmreg", "there is a recipe 'mmreg' already"),
        ("json", "the name of a Python module that is here already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(tmp_path, monkeypatch, capsys, name, told):
    monkeypatch.chdir(tmp_path)
    assert main(["new-recipe", name]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").write_text("work")
    assert main(["new-recipe", "my_method", "--out", str(tmp_path)]) == 2
    assert "is there and not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
