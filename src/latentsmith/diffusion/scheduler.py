"""Reads and writes a diffusers ``scheduler_config.json``: which path, and what the network
predicts."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Literal

from latentsmith.diffusion.parametrization import Parametrization
from latentsmith.diffusion.vp import Schedule, VPPath, VPPathConfig
from latentsmith.errors import UserError, nearest

FILE_NAME = "scheduler_config.json"

SCHEDULES: dict[str, Schedule] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
}
"""diffusers' ``beta_schedule`` → ours."""

PREDICTS: dict[str, Parametrization] = {
    "epsilon": "noise",
    "sample": "data",
    "v_prediction": "v",
}
"""diffusers' ``prediction_type`` → ours."""


@dataclass(frozen=True)
class SchedulerFacts:
    """What a scheduler config says.

    Attributes:
        path: settings of the path; ``path.build()`` is the path.
        predicts: what the network's output means.
        spacing: how diffusers spreads sampling steps over the trained ones.
        offset: added to the indices of leading spacing (``steps_offset``).
        ends_on_data: whether the last step goes to pure data (``set_alpha_to_one``), not to the
            first trained step.
    """

    path: VPPathConfig
    predicts: Parametrization
    spacing: Literal["leading", "trailing", "linspace"]
    offset: int
    ends_on_data: bool


def vp_from_scheduler(config: Mapping[str, Any] | FilePath | str) -> VPPath:
    """The path of a diffusers scheduler. Arguments and errors as `read_scheduler`."""
    return read_scheduler(config).path.build()


def read_scheduler(config: Mapping[str, Any] | FilePath | str) -> SchedulerFacts:
    """What a diffusers scheduler config says.

    Args:
        config: the config, its file, or the folder it is in (also a pipeline's, which has it in
            ``scheduler/``). Entries that are not there count as diffusers' defaults for the class
            it names.

    Raises:
        UserError: no such file, a flow's or another scheduler without betas, a schedule or
            prediction type this library does not know.
    """
    given, where = _load(config)
    defaults = _defaults(str(given.get("_class_name", "DDPMScheduler")), where)
    # diffusers writes what it does not set as null
    value = defaults | {k: v for k, v in given.items() if v is not None}
    if "beta_schedule" not in value:
        raise UserError(
            f"{where} is a {value['_class_name']}, which has no betas, so no variance-preserving "
            "path: for flow matching use path=linear"
        )
    trained = value.get("trained_betas")
    predicts = _known(PREDICTS, value["prediction_type"], "prediction_type", where)
    spacing = value["timestep_spacing"]
    if spacing not in ("leading", "trailing", "linspace"):
        raise UserError(
            f"{where} has timestep_spacing {spacing!r}: known are leading, trailing, linspace"
        )
    return SchedulerFacts(
        path=VPPathConfig(
            schedule="linear"
            if trained is not None
            else _known(SCHEDULES, value["beta_schedule"], "beta_schedule", where),
            timesteps=len(trained) if trained is not None else int(value["num_train_timesteps"]),
            beta_start=float(value["beta_start"]),
            beta_end=float(value["beta_end"]),
            zero_terminal_snr=bool(value.get("rescale_betas_zero_snr", False)),
            trained_betas=None if trained is None else [float(b) for b in trained],
        ),
        predicts=predicts,
        spacing=spacing,
        offset=int(value.get("steps_offset", 0)),
        ends_on_data=bool(value.get("set_alpha_to_one", True)),
    )


def save_scheduler(path: VPPathConfig, predicts: Parametrization, folder: FilePath | str) -> None:
    """Write ``folder/scheduler_config.json``, diffusers' DDIM, from which `read_scheduler` reads
    the same path and prediction.

    Raises:
        UserError: a prediction diffusers has no name for.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    named: dict[str, Any] = {ours: theirs for theirs, ours in PREDICTS.items()}
    schedules = {ours: theirs for theirs, ours in SCHEDULES.items()}
    if predicts not in named:
        raise UserError(
            f"the network predicts {predicts}, and diffusers' DDPM schedulers know "
            f"{', '.join(named)}: this network has no scheduler config"
        )
    DDIMScheduler(
        num_train_timesteps=path.timesteps,
        beta_start=path.beta_start,
        beta_end=path.beta_end,
        beta_schedule=schedules[path.schedule],
        trained_betas=path.trained_betas,
        rescale_betas_zero_snr=path.zero_terminal_snr,
        prediction_type=named[predicts],
        timestep_spacing="trailing" if path.zero_terminal_snr else "leading",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    ).save_pretrained(str(folder))


def _load(config: Mapping[str, Any] | FilePath | str) -> tuple[dict[str, Any], str]:
    """(entries, what to call them in messages)."""
    if isinstance(config, Mapping):
        return dict(config), "the scheduler config"
    given = FilePath(config)
    places = [given, given / FILE_NAME, given / "scheduler" / FILE_NAME]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"no {FILE_NAME} at {given}: give a scheduler's or a pipeline's folder")
    try:
        value = json.loads(found.read_text())
    except ValueError as error:
        raise UserError(f"{found} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{found} holds no scheduler config")
    return value, str(found)


def _defaults(class_name: str, where: str) -> dict[str, Any]:
    """What diffusers' class assumes for entries that are not given."""
    import diffusers

    scheduler = getattr(diffusers, class_name, None)
    if scheduler is None:
        raise UserError(f"{where} names {class_name!r}, a scheduler diffusers does not have")
    found = {
        name: p.default
        for name, p in inspect.signature(scheduler.__init__).parameters.items()
        if p.default is not inspect.Parameter.empty
    }
    return (
        {"_class_name": class_name, "prediction_type": "epsilon"}
        | {"timestep_spacing": "leading"}
        | {k: v for k, v in found.items() if v is not None}
    )


def _known(table: Mapping[str, Any], name: str, what: str, where: str) -> Any:
    if name not in table:
        raise UserError(f"{where} has {what} {name!r}, which is not known. {nearest(name, table)}")
    return table[name]
