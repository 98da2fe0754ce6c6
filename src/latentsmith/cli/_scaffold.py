"""Writes a recipe to start from, out of the templates in ``scaffold/``."""

import importlib.util
import keyword
import re
import shutil
from pathlib import Path

import latentsmith
from latentsmith.errors import UserError
from latentsmith.utils.files import make_folder

TEMPLATES = Path(__file__).parent / "scaffold"
CODE = ("__init__.py", "config.py", "task.py", "stages.py", "report.py")
PRESETS = ("config.yaml", *(f"scale/{name}.yaml" for name in ("smoke", "laptop", "paper")))


def as_plugin(name: str, folder: Path) -> Path:
    """A project of its own: package, presets, tests, README, entry point. Returns its folder.

    Raises:
        UserError: the name is none or taken, or the folder is not empty.
    """
    _check_name(name)
    if importlib.util.find_spec(name) is not None:
        raise UserError(f"{name} is the name of a Python module that is here already: give another")
    files = _package(name, name, folder / name)
    files[folder / "README.md"] = _text("README.md", name, name) + _text("plugin.md", name, name)
    files[folder / "pyproject.toml"] = _text("pyproject.toml", name, name)
    files[folder / "tests" / "conftest.py"] = _text("conftest.py", name, name)
    files[folder / "tests" / f"test_{name}.py"] = _text("test.py", name, name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and not empty: give another with --out DIR")
    _write(files, folder)
    return folder


def in_tree(name: str, root: Path) -> tuple[Path, Path]:
    """Among the library's own recipes, in the checkout ``root``: (package, test).

    Raises:
        UserError: the name is none or taken.
    """
    _check_name(name)
    package = root / "src" / "latentsmith" / "recipes" / name
    test = root / "tests" / "recipes" / f"test_{name}_run.py"
    for path in (package, test):
        if path.exists():
            raise UserError(f"{path} is there already: give another name")
    inside = f"latentsmith.recipes.{name}"
    files = _package(name, inside, package)
    files[package / "README.md"] = _text("README.md", name, inside)
    files[test] = _text("test.py", name, inside)
    _write(files, package)
    return package, test


def checkout() -> Path:
    """The root of the checkout this package runs from. Raises UserError if it was installed."""
    root = Path(latentsmith.__file__).parents[2]
    if not (root / "pyproject.toml").is_file() or not (root / "tests" / "recipes").is_dir():
        raise UserError(
            "--in-tree is for a checkout of latentsmith, and this one is installed: leave it away "
            "to write a plug-in"
        )
    return root


def _check_name(name: str) -> None:
    from latentsmith.recipes.base import RECIPES

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        proper = re.sub(r"\W+", "_", name.lower()).strip("_")
        hint = f": {proper}" if re.fullmatch(r"[a-z][a-z0-9_]*", proper) else ""
        raise UserError(
            f"{name!r} cannot be a recipe's name: it is a Python module's too, so write it with "
            f"lower case letters, digits and _, a letter first{hint}"
        )
    if name in RECIPES.names():
        raise UserError(f"there is a recipe {name!r} already: give another name")


def _package(name: str, package: str, folder: Path) -> dict[Path, str]:
    """The recipe's own files: path → text."""
    names = [*CODE, *(f"presets/{preset}" for preset in PRESETS)]
    return {folder / file: _text(file, name, package) for file in names}


def _text(file: str, name: str, package: str) -> str:
    """A template filled in. ``<<…>>`` because braces are Python's and YAML's."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), variable_start_string="<<", variable_end_string=">>",
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False,  # no HTML
    )  # fmt: skip
    camel = "".join(part.capitalize() for part in name.split("_"))
    text = templates.get_template(f"{file}.j2").render(name=name, Name=camel, package=package)
    return text if package == name else _one_block(text, package)


def _one_block(text: str, package: str) -> str:
    """The recipe's own imports sorted among the library's: in its tree they are of one kind."""
    inside = re.escape(package)
    blocks = re.search(rf"((?:from latentsmith.*\n)+)\n((?:from {inside}.*\n)+)", text)
    if blocks is None:
        return text
    lines = (blocks[1] + blocks[2]).splitlines(keepends=True)
    return text.replace(blocks[0], "".join(sorted(lines, key=lambda line: line.split()[1])))


def _write(files: dict[Path, str], folder: Path) -> None:
    """All of them; if one cannot be written, what was written below ``folder`` goes again."""
    made = make_folder(folder)
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError:
        if folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        raise
