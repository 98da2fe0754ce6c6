"""``latentsmith.run``: what ``latentsmith run`` does, from Python."""

from pathlib import Path

from latentsmith.cli._pipeline import check_needs, go_through, prepare, up_to
from latentsmith.config.compose import compose
from latentsmith.config.run import Run


def run(
    recipe: str,
    *overrides: str,
    out: Path | str | None = None,
    until: str | None = None,
    fresh: bool = False,
) -> Run:
    """Run a recipe, or go on with it; the same call resumes, as the same command does.

    Args:
        recipe: see ``latentsmith list recipes``.
        overrides: settings as on the command line: ``"scale=laptop"``, ``"loss.weight=0.3"``.
        out: run folder; None: the command's own, ``runs/<recipe>/<scale>…`` below the working
            folder.
        until: end after this stage (and the report).
        fresh: start anew; an existing run is moved aside.

    Returns:
        The closed run: ``path``, ``config``, and ``summary(stage)``, what a stage left.

    Raises:
        UserError: settings that do not work, a folder that is taken, or something missing.
    """
    config = compose(recipe, overrides)
    stages = up_to(config.stages(), until)
    if until is None:
        check_needs(config)
    prepare()
    with Run.open(out, config, overrides, fresh=fresh) as opened:
        go_through(opened, stages)
        if until is None:
            opened.finish()
    return opened
