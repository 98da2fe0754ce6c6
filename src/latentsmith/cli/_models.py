"""A finished run as the source of a model, and of the settings it was trained with."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def is_run(source: str) -> bool:
    """Whether ``source`` is the folder of a run."""
    return (Path(source) / "config.yaml").is_file()


def model_of_run(
    path: Path, stage: str | None, sections: Sequence[str]
) -> tuple[str, list[str], str]:
    """(model folder, the run's settings of ``sections`` as overrides, stage) of a run's model.

    Args:
        stage: whose model; None: the last's.

    Raises:
        UserError: the run has no model, or none of that stage.
    """
    from latentsmith.config.run import Run
    from latentsmith.config.saved import to_dict
    from latentsmith.errors import UserError, nearest

    run = Run.load(path)
    done = [s.name for s in run.config.stages() if run.stage_done(s.name)]
    models = {s: m for s in done if (m := run.summary(s).get("model"))}
    if not models:
        raise UserError(f"{path} has no trained model yet: finish it with latentsmith run")
    stage = stage or list(models)[-1]
    if stage not in models:
        raise UserError(f"{path} has no model of stage {stage!r}. {nearest(stage, models)}")
    values = to_dict(run.config)
    words: list[str] = []
    for section in sections:
        if section == "more_references":
            for name, value in values.get(section, {}).items():
                words += words_of(f"{section}.{name}", value)
        else:
            words += words_of(section, values[section])
    return models[stage], words, stage


def words_of(section: str, values: dict[str, Any]) -> list[str]:
    """A config section as overrides: the choice first, then its settings."""
    words = [f"{section}={values['kind']}"] if "kind" in values else []
    plain = {key: value for key, value in values.items() if key != "kind"}
    return words + [f"{section}.{key}={json.dumps(value)}" for key, value in plain.items()]
