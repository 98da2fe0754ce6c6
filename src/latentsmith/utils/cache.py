"""Where fetched data and derived vectors are kept between runs."""

import os
from pathlib import Path


def cache_root() -> Path:
    """``$LATENTSMITH_CACHE``, else ``~/.cache/latentsmith``. All in it can be made again."""
    given = os.environ.get("LATENTSMITH_CACHE")
    return Path(given).expanduser() if given else Path("~/.cache/latentsmith").expanduser()
