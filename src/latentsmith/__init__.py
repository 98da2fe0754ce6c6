"""latentsmith: build, align, measure and generate with latent spaces.

Two functions stand for most of it in a notebook: `run` a recipe, `measure` an autoencoder. All the
rest is in the subpackages. Importing this package imports no torch: each part loads what it needs
when it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentsmith.api import run as run
    from latentsmith.measuring import measure as measure

__version__ = "0.1.0.dev0"

_PLACES = {"run": "latentsmith.api", "measure": "latentsmith.measuring"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'latentsmith' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
