"""docs/dependencies.md and pyproject.toml name the same packages, each in its place."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]


def declared() -> dict[str, set[str]]:
    """Section of the page → names in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = dict(project["optional-dependencies"])
    parts = {
        "Needed": project["dependencies"],
        "Development": extras.pop("dev"),
        "Optional": [line for lines in extras.values() for line in lines],
    }
    return {part: {Requirement(line).name for line in lines} for part, lines in parts.items()}


def rows() -> dict[str, list[list[str]]]:
    """Section → the cells of its table's rows."""
    page = (ROOT / "docs" / "dependencies.md").read_text()
    found = {}
    for section in page.split("\n## ")[1:]:
        lines = re.findall(r"^\|(.+)\|$", section, re.MULTILINE)[2:]  # past head and rule
        found[section.splitlines()[0]] = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines
        ]
    return found


def test_every_dependency_has_one_row_and_every_row_a_dependency():
    tables = rows()
    for section, names in declared().items():
        listed = [cells[0] for cells in tables[section]]
        assert len(listed) == len(set(listed)), f"{section} lists a package twice"
        assert set(listed) == names, f"{section}: {set(listed) ^ names} in one place only"


def test_every_row_says_what_for_why_and_under_which_licence():
    for section, table in rows().items():
        for cells in table:
            assert all(cells), f"{section}: an empty cell in the row of {cells[0]}"
