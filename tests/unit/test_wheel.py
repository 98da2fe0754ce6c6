"""The wheel holds everything the source tree does, and says what it is."""

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import latentsmith

ROOT = Path(__file__).parents[2]
PACKAGE = Path("src") / "latentsmith"
pytest.importorskip("setuptools", minversion="77")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without network from a copy: building writes into the tree."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(
        ROOT / PACKAGE, copy / PACKAGE, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    script = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", script], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return zipfile.ZipFile(copy / "dist" / done.stdout.splitlines()[-1])


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    files = (p for p in (ROOT / PACKAGE).rglob("*") if p.is_file() and "__pycache__" not in str(p))
    there = {file.relative_to(ROOT / "src").as_posix() for file in files}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == there
    assert {Path(name).suffix for name in packed} >= {".py", ".yaml", ".css", ".j2", ".typed"}


def test_the_wheel_says_what_it_is(wheel):
    inside = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    facts = email.message_from_bytes(wheel.read(inside["METADATA"]))
    assert facts["Name"] == "latentsmith" and facts["Version"] == latentsmith.__version__
    assert facts["License-Expression"] == "Apache-2.0" and "LICENSE" in inside
    requires = facts.get_all("Requires-Dist")
    assert requires is not None and any(line.startswith("torch>=") for line in requires)
    assert "latentsmith = latentsmith.cli:main" in wheel.read(inside["entry_points.txt"]).decode()


def test_the_version_is_written_once():
    """A release changes one line."""
    version = latentsmith.__version__
    files = [ROOT / "pyproject.toml", ROOT / "CITATION.cff", *(ROOT / PACKAGE).rglob("*.py")]
    assert [f for f in files if f'"{version}"' in f.read_text()] == [ROOT / PACKAGE / "__init__.py"]


def test_the_citation_file_has_what_its_format_asks_for():
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= facts.keys()
    assert facts["license"] == "Apache-2.0"
