"""``latentsmith launch RECIPE``: a file that starts a run on many GPUs."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentsmith.training.config import TrainConfig

HELP = "write a file that starts a run on many GPUs: one machine, several, or Slurm"
EXAMPLES = """examples:
  latentsmith launch urepa scale=paper --gpus-per-node 8
  latentsmith launch urepa scale=paper --nodes 2 --gpus-per-node 8 --engine torchrun
  latentsmith launch mmreg scale=paper --nodes 2 --gpus-per-node 4 --engine slurm --file mmreg.sh
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "launch", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("recipe", metavar="RECIPE", help="see 'latentsmith list recipes'")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings, e.g. scale=paper"
    )
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (default 1)")
    parser.add_argument(
        "--gpus-per-node", type=int, default=1, metavar="G",
        help="processes on each, one a GPU (default 1)",
    )  # fmt: skip
    parser.add_argument(
        "--engine", default=None, metavar="ENGINE",
        help="local (one machine; default), torchrun (several machines; default for them) or "
        "slurm (an sbatch file that survives preemption and the end of its time)",
    )  # fmt: skip
    parser.add_argument(
        "--file", type=Path, metavar="FILE", help="write it there (default: print it)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder")
    slurm = parser.add_argument_group("slurm")
    slurm.add_argument("--time", metavar="T", help="longest time of a job, e.g. 24:00:00")
    slurm.add_argument("--partition", metavar="P", help="where to")
    slurm.add_argument("--account", metavar="A", help="at whose expense")
    slurm.add_argument(
        "--cpus-per-gpu", type=int, default=8, metavar="C", help="cores of a process (default 8)"
    )
    slurm.add_argument(
        "--notice", type=int, default=120, metavar="S",
        help="seconds before the end of its time at which the job is told to save (default 120)",
    )  # fmt: skip
    parser.set_defaults(run=launch)


def launch(args: argparse.Namespace) -> None:
    """Raises UserError for settings that do not work, batches that the processes cannot share, or
    a file that is there."""
    from latentsmith.config.compose import compose
    from latentsmith.config.run import folder_name
    from latentsmith.utils.launch import Launch, launch_file

    words = ["run", args.recipe, *args.overrides]
    words += [] if args.out is None else ["--out", str(args.out)]
    name = re.sub(r"[^\w.-]+", "-", f"{args.recipe}-{folder_name(args.overrides)}")[:60]
    job = Launch(
        words, name.strip("-"), args.nodes,
        args.gpus_per_node, args.cpus_per_gpu, args.time, args.partition, args.account,
        args.notice,
    )  # fmt: skip
    config = compose(args.recipe, args.overrides)
    for train in trainings(config):
        train.micros(job.processes)
    engine = args.engine or ("local" if args.nodes == 1 else "torchrun")
    text = launch_file(job, engine)
    if args.file is None:
        print(text, end="")
        return
    _write(args.file, text)
    how = {"local": "bash", "torchrun": "on every machine: HEAD=… bash", "slurm": "sbatch"}[engine]
    print(f"{args.file}\nstart it: {how} {args.file}")


def trainings(config: Any) -> "Iterator[TrainConfig]":
    """Every training among the settings."""
    import dataclasses

    from latentsmith.training.config import TrainConfig

    if isinstance(config, TrainConfig):
        yield config
    elif isinstance(config, dict):
        for value in config.values():
            yield from trainings(value)
    elif dataclasses.is_dataclass(config):
        for f in dataclasses.fields(config):
            yield from trainings(getattr(config, f.name))


def _write(file: Path, text: str) -> None:
    from latentsmith.errors import UserError
    from latentsmith.utils.files import atomic_path

    if file.exists() and file.read_text() != text:
        raise UserError(
            f"{file} is there and says something else: give another --file, or remove it"
        )
    with atomic_path(file) as tmp:
        tmp.write_text(text)
        tmp.chmod(0o755)
