"""A finished run as the source of a model, and of the settings it was trained with."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentsmith.config.run import Run


def is_run(source: str, stage: str | None = None) -> bool:
    """Whether ``source`` is the folder of a run. Raises UserError when it is none, but one of its
    stages was asked for."""
    from latentsmith.errors import UserError

    found = (Path(source) / "config.yaml").is_file()
    if stage is not None and not found:
        raise UserError(f"--model {stage} names a stage of a run, and {source} is not a run folder")
    return found


def recipe_of(source: str) -> str | None:
    """The recipe of a run folder; None for what is no run."""
    from latentsmith.config.run import Run

    return Run.load(source).config.kind if is_run(source) else None


def model_of_run(
    path: Path, stage: str | None, sections: Sequence[str]
) -> tuple[str, list[str], str]:
    """(model folder, the run's settings of ``sections`` as overrides, stage) of a run's model.

    Args:
        stage: whose model; None: the last's.

    Raises:
        UserError: the run has no model, or none of that stage.
    """
    model, values, stage = _left(path, stage, "model", "finish it with latentsmith run")
    words: list[str] = []
    for section in sections:
        if section not in values:  # of another recipe: the verb's own default stays
            continue
        if section == "more_references":
            for name, value in values.get(section, {}).items():
                words += words_of(f"{section}.{name}", value)
        else:
            words += words_of(section, values[section])
    return model, words, stage


def generator_of_run(path: Path, stage: str | None) -> tuple[str, list[str], str]:
    """(folder of the generator, of the first seed's if there are several; the run's sampler and
    guidance as overrides; stage).

    Raises:
        UserError: the run has no generator, or none of that stage.
    """
    folder, values, stage = _generator(path, stage)
    # wherever the recipe says how its images are generated
    settings = next(
        v for v in values.values() if isinstance(v, dict) and {"sampler", "guidance"} <= v.keys()
    )
    words = [w for section in ("sampler", "guidance") for w in words_of(section, settings[section])]
    return folder, words, stage


def generator_of(source: str, stage: str | None) -> tuple[str, list[str], str]:
    """(folder of the generator, settings that come with it, what to call it) of a run, or of the
    folder of a saved one, which brings no settings.

    Raises:
        UserError: as `generator_of_run`, or a stage of what is no run.
    """
    path = Path(source)
    if not is_run(source, stage):
        return source, [], path.name
    folder, words, stage = generator_of_run(path, stage)
    return folder, words, f"{path.name}-{stage}"


def crop_of_run(path: Path) -> list[str]:
    """How a run's images became squares, without chance, as an override ``crop=…``; [] where its
    recipe does not say. Raises UserError for what is no run."""
    from latentsmith.config.run import Run

    transform = getattr(Run.load(path).config, "transform", None)
    return [] if transform is None else [f"crop={transform.deterministic().crop}"]


def saved_of_run(path: Path, stage: str | None) -> tuple[str, str]:
    """(folder, stage) of what a stage of the run trained, whatever it is; without ``stage`` the
    last generator of images, or where there is none the last model.

    Raises:
        UserError: the run has trained nothing yet, or that stage has not.
    """
    from latentsmith.config.run import Run
    from latentsmith.errors import UserError, nearest

    run = Run.load(path)
    done = [s.name for s in run.config.stages() if run.stage_done(s.name)]
    found = {name: folder for name in done if (folder := _saved(run.summary(name)))}
    if not found:
        raise UserError(
            f"{path} has trained nothing yet: the same latentsmith run, without --until, goes on"
        )
    if stage is None:
        made = [name for name in found if "generators" in run.summary(name)]
        stage = (made or list(found))[-1]
    if stage not in found:
        raise UserError(f"{path} has no model of stage {stage!r}. {nearest(stage, found)}")
    return found[stage], stage


def _saved(left: dict[str, Any]) -> str | None:
    """The folder of a model in what a stage left."""
    if "generators" in left:
        return left["generators"][0]["generator"]
    return next((left[key] for key in ("model", "flow", "inverter") if key in left), None)


def _generator(path: Path, stage: str | None) -> tuple[str, dict[str, Any], str]:
    hint = "the same latentsmith run, without --until, goes on to it"
    generators, values, stage = _left(path, stage, "generators", hint)
    return generators[0]["generator"], values, stage


def _left(path: Path, stage: str | None, key: str, hint: str) -> tuple[Any, dict[str, Any], str]:
    """(what a stage of the run left under ``key``, the run's settings, which stage)."""
    from latentsmith.config.run import Run
    from latentsmith.config.saved import to_dict
    from latentsmith.errors import UserError, nearest

    run = Run.load(path)
    found, what = _found(run, key), key.removesuffix("s")
    if not found:
        raise UserError(f"{path} has no trained {what} yet: {hint}")
    stage = stage or list(found)[-1]
    if stage not in found:
        raise UserError(f"{path} has no {what} of stage {stage!r}. {nearest(stage, found)}")
    return found[stage], to_dict(run.config), stage


def stages_of(path: Path) -> tuple[list[str], list[str]]:
    """(stages of the run that left a generator, those that left another model), in order."""
    from latentsmith.config.run import Run

    run = Run.load(path)
    return list(_found(run, "generators")), list(_found(run, "model"))


def _found(run: "Run", key: str) -> dict[str, Any]:
    """Stage → what it left under ``key``, of the stages that are done."""
    done = [stage.name for stage in run.config.stages() if run.stage_done(stage.name)]
    return {stage: left for stage in done if (left := run.summary(stage).get(key))}


def kept(inherited: Sequence[str], given: Sequence[str]) -> list[str]:
    """The words of a run that the user's own leave standing: with ``data=digits`` nothing of the
    dataset the run was trained on holds any more."""
    kinds = {key: value for key, _, value in (word.partition("=") for word in inherited)}
    other = [
        key
        for key, _, value in (word.partition("=") for word in given)
        if key in kinds and "." not in key and kinds[key] != value
    ]
    parts = tuple(f"{key}{sign}" for key in other for sign in "=.")
    return [word for word in inherited if not word.startswith(parts)]


def words_of(section: str, values: dict[str, Any]) -> list[str]:
    """A config section as overrides: the choice first, then its settings."""
    words = [f"{section}={values['kind']}"] if "kind" in values else []
    plain = {key: value for key, value in values.items() if key != "kind"}
    return words + [f"{section}.{key}={json.dumps(value)}" for key, value in plain.items()]
