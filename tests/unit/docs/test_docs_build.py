"""The pages are true: links lead somewhere, commands work, the reference is up to date."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
assert spec is not None and spec.loader is not None
docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docs)
REFERENCE = docs.reference()


@pytest.mark.parametrize("page", docs.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_no_problem(page):
    assert list(docs.problems(page)) == []


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.name)
def test_the_reference_is_up_to_date(path):
    assert path.is_file() and path.read_text() == REFERENCE[path], "run make docs"


WRONG = """# Title
[good](#title) [bad](#nowhere) [file](no.md) [web](https://example.org)
```bash
latentsmith run mmreg scale=smokey
OMP_NUM_THREADS=1 latentsmith run mmreg scale=smoke
latentsmith run RECIPE whatever
latentsmith sweep mmreg scale=smoke loss.weight=0,x
ls -l
```
```python
from latentsmith.config.compose import compose, nothing
import torch
```
"""


def test_problems_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(WRONG)
    found = list(docs.problems(page))
    assert len(found) == 5
    assert "no such scale. Did you mean 'smoke'" in found[0]
    assert "loss.weight: should be a number (got 'x')" in found[1]
    assert "latentsmith.config.compose has no nothing" in found[2]
    assert [f.split()[3] for f in found[3:]] == ["#nowhere", "no.md"]
