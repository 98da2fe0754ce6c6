"""PAPERS.md names files that exist, and every citation of an arXiv number in the code is in it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "PAPERS.md").read_text()


def test_every_file_it_names_exists():
    named = re.findall(r"`([\w/]+/(?:[\w/]*\w\.py)?)`", PAGE)
    assert len(named) > 60
    places = (ROOT / "src" / "latentsmith", ROOT / "tests" / "unit", ROOT)
    missing = [name for name in named if not any((place / name).exists() for place in places)]
    assert missing == []


def test_every_metric_it_names_is_registered():
    from latentsmith.metrics.registry import METRICS

    table = PAGE.split("## Metrics")[1]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    named = {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert named and named <= set(METRICS.names()), named - set(METRICS.names())


def test_every_arxiv_number_in_the_code_is_listed():
    sources = (ROOT / "src").rglob("*.py")
    cited = {n for file in sources for n in re.findall(r"arXiv (\d{4}\.\d{5})", file.read_text())}
    assert cited <= set(re.findall(r"\d{4}\.\d{5}", PAGE)), cited
