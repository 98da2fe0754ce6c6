"""Build the documentation as a site: ``python docs/make_site.py [FOLDER]`` (``make site``).

The pages are the repository's Markdown as it lies there, so they link to each other across folders,
and to code. mkdocs reads one folder: this copies into it what is a page or linked from one, in the
repository's own layout, so that every link holds as it is written. The order of pages follows from
the folders: a new how-to is in the menu because it is there. Warnings (a dead link, a heading that
is gone, a page in no menu) are errors.
"""

import importlib.util
import logging
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\])\(([^)\s]+)\)")
SECTIONS = {
    "Start": ["README.md", "docs/which-recipe.md", "docs/README.md"],
    "Tutorials": ["docs/tutorials/mmreg.md", "docs/tutorials"],
    "How to": ["docs/howto/reading-a-report.md", "docs/howto/plugins.md", "docs/howto"],
    "Concepts": ["docs/concepts/latents.md", "docs/concepts"],
    "Results": ["docs/results/README.md", "docs/results"],
    "Reference": ["docs/glossary.md", "docs/reference/command-line.md", "docs/reference"],
    "Recipes": ["src/latentsmith/recipes"],
    "The project": [
        "docs/architecture.md", "CONTRIBUTING.md", "PAPERS.md", "docs/journal.md", "CHANGELOG.md",
        "docs", "benchmarks",
    ],
}  # fmt: skip
"""Part of the menu → pages first to last; of a folder all that were not named before."""


def menu() -> dict[str, list[Path]]:
    """Section → its pages, each page once."""
    seen: set[Path] = set()
    found = {}
    for section, entries in SECTIONS.items():
        pages = []
        for entry in entries:
            path = ROOT / entry
            deep = entry != "docs"  # whose folders are sections of their own
            below = path.rglob("*.md") if deep else path.glob("*.md")
            pages += sorted(below) if path.is_dir() else [path]
        found[section] = [page for page in dict.fromkeys(pages) if page not in seen]
        seen |= set(pages)
    return found


def stage(folder: Path) -> dict[str, list[Path]]:
    """Copy pages and what they link to, in the repository's layout; the menu."""
    sections = menu()
    pages = {page for pages in sections.values() for page in pages}
    for page in sorted(pages):
        text, linked = _with_links_that_hold(page, pages)
        target = folder / page.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        for file in linked - pages:
            copy = folder / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    return sections


def _with_links_that_hold(page: Path, pages: set[Path]) -> tuple[str, set[Path]]:
    """The page's text and the files it links to. A folder is not a page: a link to it leads to its
    README, or where it has none, nowhere, and only its text stays."""
    linked = set()

    def repair(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        there = (page.parent / target).resolve()
        if re.match(r"[a-z]+:", target) or not target:
            return match[0]
        if there.is_file():
            linked.add(there)
            return match[0]
        if there / "README.md" in pages:
            return f"({target.rstrip('/')}/README.md{'#' + anchor if anchor else ''})"
        return f"({match[1]})" if not there.is_dir() else ""

    code = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
    parts = code.split(page.read_text())  # code at odd places
    prose = [LINK.sub(repair, part) if n % 2 == 0 else part for n, part in enumerate(parts)]
    return "".join(prose), linked


def build(folder: Path) -> None:
    """Write the site. Raises mkdocs' Abort (a SystemExit) for any warning, which is logged."""
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    with tempfile.TemporaryDirectory() as staged:
        sections = stage(Path(staged))
        nav: list[Any] = [
            {section: [page.relative_to(ROOT).as_posix() for page in pages]}
            for section, pages in sections.items()
        ]
        config = load_config(
            str(ROOT / "docs" / "mkdocs.yml"),
            docs_dir=staged,
            site_dir=str(folder.resolve()),
            nav=nav,
            strict=True,
        )
        build_site(config)


if __name__ == "__main__":
    if importlib.util.find_spec("mkdocs") is None:
        sys.exit("the site needs mkdocs-material: pip install -c constraints.txt -e '.[docs]'")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "build/site")
    build(out)
    print(f"written: {out / 'index.html'}")
