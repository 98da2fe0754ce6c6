"""The command line: one file per verb.

A verb is a module of this package with ``add(subparsers)``: it adds a parser named like the
module (``-`` for ``_``) and sets ``run=function`` as its default, ``function(args) -> exit code or
None``. Modules are imported for every ``--help``, so they import torch and its like inside their
functions.
``overrides`` in a verb's arguments collects the ``key=value`` words of the line.
"""

from latentsmith.cli._main import main, verbs

__all__ = ["main", "verbs"]
