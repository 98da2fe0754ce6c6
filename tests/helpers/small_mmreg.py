"""The run of mmreg that several files look at; see ``tests/recipes/conftest.py``."""

ARGS = ["run", "mmreg", "scale=smoke", "evaluate.card.resamples=20"]
