"""Where a status line may be drawn over."""

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def live_console() -> "Console | None":
    """A console whose lines can be redrawn: stderr on a terminal, or a notebook's cell where
    ipywidgets is installed, by which rich draws there. None: plain lines have to do."""
    if not (sys.stderr.isatty() or in_notebook()):
        return None
    from rich.console import Console

    return Console(stderr=True)


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel that can draw."""
    return "ipykernel" in sys.modules and find_spec("ipywidgets") is not None
