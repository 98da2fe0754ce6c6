"""``latentsmith measure SOURCE``: the latent-space card of any autoencoder, no training."""

import argparse
import re
from pathlib import Path
from typing import Any

from latentsmith.cli._pipeline import add_overrides, go_through, prepare

HELP = "measure the latent space of any autoencoder: a page and a JSON file, no training"
EXAMPLES = """examples:
  latentsmith measure stabilityai/sd-vae-ft-mse data=image_folder data.folder=photos
  latentsmith measure runs/mmreg/laptop
  latentsmith measure runs/mmreg/laptop --model baseline
  latentsmith measure my_vae data=shapes transform.resolution=64 encoder.resolution=112
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "measure", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("source", metavar="SOURCE", help="hub id, folder in diffusers format, run")
    add_overrides(parser)
    parser.add_argument("--model", metavar="STAGE", help="of a run: which stage's model (the last)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when the autoencoder or data cannot be had or do not fit."""
    from latentsmith.config.compose import compose
    from latentsmith.config.run import ROOT, Run

    source, inherited, name = args.source, [], args.source
    if (Path(args.source) / "config.yaml").is_file():
        source, inherited, stage = _from_run(Path(args.source), args.model)
        name = f"{Path(args.source).name}-{stage}"
    overrides = [f"autoencoder.source={source}", *inherited, *args.overrides]
    config = compose("measure", overrides)
    out = args.out or ROOT / "measure" / re.sub(r"[^\w.,=-]+", "_", name).strip("_")
    prepare()
    with Run.open(out, config, overrides, fresh=args.fresh) as opened:
        go_through(opened, config.stages())
        opened.finish()
    return 0


def _from_run(path: Path, stage: str | None) -> tuple[str, list[str], str]:
    """(model folder, the run's data and encoder settings as overrides, stage) of a run's model."""
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
    for section in ("data", "encoder", "transform"):
        words += _words(section, values[section])
    for name, value in values.get("more_references", {}).items():
        words += _words(f"more_references.{name}", value)
    return models[stage], words, stage


def _words(section: str, values: dict[str, Any]) -> list[str]:
    """A config section as overrides: the choice first, then its settings."""
    import json

    words = [f"{section}={values['kind']}"] if "kind" in values else []
    plain = {key: value for key, value in values.items() if key != "kind"}
    return words + [f"{section}.{key}={json.dumps(value)}" for key, value in plain.items()]
