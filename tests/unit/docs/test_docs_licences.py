"""docs/licences.md lists what constraints.txt pins, each with a licence."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def licences():
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("licences", ROOT / "docs" / "licences.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_of_the_pinned_versions(licences):
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", licences.PAGE.read_text(), re.MULTILINE)
    assert {name: version for name, version, _ in rows if name != "package"} == licences.pinned()
    assert not [name for name, _, licence in rows if "not installed" in licence]


class Told:
    """A package's metadata."""

    def __init__(self, classifiers=(), **told):
        self.told = {name: [value] for name, value in told.items()}
        self.told["Classifier"] = list(classifiers)

    def get_all(self, name):
        return self.told.get(name)


@pytest.mark.parametrize(
    ("told", "licence"),
    [
        (Told(**{"License-Expression": "MIT"}, License="see file"), "MIT"),
        (Told(["License :: OSI Approved :: BSD License", "Topic :: x"]), "BSD License"),
        (Told(["License :: OSI Approved"], License="Apache 2.0"), "Apache 2.0"),
        (Told(License="A whole text of a licence, " * 40), "none stated"),
        (Told(License="UNKNOWN"), "none stated"),
        (Told(), "none stated"),
    ],
)
def test_what_a_package_says(licences, told, licence):
    class Package:
        metadata = told

    assert licences.licence(Package) == licence
