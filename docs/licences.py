"""Write docs/licences.md: the licence of every package in constraints.txt.

``python docs/licences.py``, in the environment that `make setup` made: licences are what the
installed packages say of themselves (their core metadata), nothing is looked up elsewhere.
"""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences

Of every package that [constraints.txt](../constraints.txt) pins, as the packages state them in
their own metadata. `python docs/licences.py` writes this page; a test compares it with the pins.
What each direct dependency is for is in [dependencies.md](dependencies.md). latentsmith itself is
Apache-2.0.

| package | version | licence |
|---|---|---|
"""
KIND, OSI = "License :: ", "OSI Approved :: "
UNSTATED = "none stated"


def pinned() -> dict[str, str]:
    """Name → version of every package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name: version.split(";")[0].strip() for name, version in pairs}


def licence(package: Distribution) -> str:
    """In a few words: the SPDX expression, else the classifiers, else the field's first line."""
    told = {
        name: package.metadata.get_all(name) or []
        for name in ("License-Expression", "Classifier", "License")
    }
    if told["License-Expression"]:
        return told["License-Expression"][0]
    kinds = [kind.removeprefix(KIND) for kind in told["Classifier"] if kind.startswith(KIND)]
    named = [kind.removeprefix(OSI) for kind in kinds if kind != OSI.removesuffix(" :: ")]
    if named:
        return ", ".join(named)
    first = "".join(told["License"]).strip().partition("\n")[0]
    return first if 0 < len(first) <= 60 and first != "UNKNOWN" else UNSTATED


def page() -> str:
    """The page's text."""
    rows = []
    for name, version in sorted(pinned().items(), key=lambda pair: pair[0].lower()):
        try:
            told = re.sub(r"\s+", " ", licence(distribution(name)))
        except PackageNotFoundError:
            told = "not installed where this was written"
        rows.append(f"| {name} | {version} | {told.replace('|', '/')} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))
