"""The site: every page is in its menu once, its links hold where it is staged, and mkdocs has
nothing to warn of. And what the pages about metrics and Python promise."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.fresh import python
from latentsmith.metrics.registry import METRICS

ROOT = Path(__file__).parents[3]
spec = importlib.util.spec_from_file_location("make_site", ROOT / "docs" / "make_site.py")
assert spec is not None and spec.loader is not None
site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site)

RUNNABLE = ["own-autoencoder", "own-encoder", "own-metric"]
"""How-tos whose Python needs nothing that is not there."""


def test_every_page_is_in_the_menu_once():
    pages = [page for pages in site.menu().values() for page in pages]
    assert len(pages) == len(set(pages))
    folders = [ROOT / "docs", ROOT / "src", ROOT / "benchmarks"]
    all_pages = {*ROOT.glob("*.md"), *(p for folder in folders for p in folder.rglob("*.md"))}
    assert set(pages) == all_pages
    assert all(pages[0].name == "README.md" for pages in (pages, site.menu()["Results"]))


def test_pages_and_what_they_link_to_are_staged(tmp_path):
    site.stage(tmp_path)
    assert (tmp_path / "README.md").read_text().startswith("# latentsmith")
    assert (tmp_path / "docs/assets/mmreg-laptop.png").is_file()  # a picture of the first page
    assert (tmp_path / "constraints.txt").is_file()  # linked from a page
    assert not (tmp_path / "pyproject.toml").exists()


def test_links_to_folders_lead_to_their_readme_or_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "ROOT", tmp_path)
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    inner, page = tmp_path / "with" / "README.md", tmp_path / "page.md"
    inner.write_text("# Inner\n")
    page.write_text("[a](with/) [b](without) [c](page.md#x) [d](https://x.org) `[e](with)`\n")
    text, linked = site._with_links_that_hold(page, {inner, page})
    told = "[a](with/README.md) [b] [c](page.md#x) [d](https://x.org) `[e](with)`\n"
    assert text == told and linked == {page}


def test_mkdocs_has_nothing_to_warn_of(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed: make site")
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_site.py"), str(tmp_path / "site")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "site" / "docs" / "glossary.html").is_file()


def test_the_page_of_metrics_names_every_metric():
    page = (ROOT / "docs" / "concepts" / "metrics.md").read_text()
    named = set(re.findall(r"`([a-z0-9_]+)`", page))
    assert {metric.name for metric in METRICS} - named == set()


@pytest.mark.parametrize("name", RUNNABLE)
def test_python_of_a_how_to_runs(name, tmp_path):
    page = (ROOT / "docs" / "howto" / f"{name}.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    done = python("-c", "\n".join(blocks), cwd=tmp_path)
    assert blocks and done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
