"""Files that start one command as many processes: on one machine, on several, under Slurm.

Every process is told RANK, WORLD_SIZE, LOCAL_RANK and where the first one listens, by torchrun or
by the file itself; the command finds them (`latentsmith.training.team.Team.join`). The same file
started again goes on where it stopped, since the same command does.
"""

import shlex
from dataclasses import dataclass
from typing import Literal, get_args

from latentsmith.errors import UserError, nearest

Engine = Literal["local", "torchrun", "slurm"]
ENGINES: tuple[Engine, ...] = get_args(Engine)

PORT = 29_500
STOPPED = 128 + 15
"""Exit code of a run that SIGTERM stopped, and that has saved."""


@dataclass(frozen=True)
class Launch:
    """What to start, and where.

    Attributes:
        words: the command, ``["run", "urepa", …]``.
        name: of the job.
        nodes, gpus: machines, and processes on each of them, one a GPU.
        cpus: cores of each process (slurm).
        time, partition, account: as sbatch takes them; None: the cluster's own.
        notice: seconds between SIGTERM and the end of a job's time: to finish a step and save.
    """

    words: list[str]
    name: str
    nodes: int = 1
    gpus: int = 1
    cpus: int = 8
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    notice: int = 120

    def __post_init__(self) -> None:
        for option, value in (
            ("--nodes", self.nodes), ("--gpus-per-node", self.gpus),
            ("--cpus-per-gpu", self.cpus), ("--notice", self.notice),
        ):  # fmt: skip
            if value < 1:
                raise UserError(f"{option} {value}: give 1 or more")

    @property
    def processes(self) -> int:
        """In all."""
        return self.nodes * self.gpus

    @property
    def command(self) -> str:
        """As one types it."""
        return shlex.join(["latentsmith", *self.words])

    @property
    def module(self) -> str:
        """As launchers take it."""
        return shlex.join(["-m", "latentsmith", *self.words])


def launch_file(launch: Launch, engine: str) -> str:
    """The text of a bash file.

    Raises:
        UserError: an unknown engine, or several machines for the engine of one.
    """
    if engine not in ENGINES:
        raise UserError(f"--engine {engine}: no such engine. {nearest(engine, ENGINES)}")
    if engine == "local" and launch.nodes > 1:
        raise UserError(
            f"--engine local is one machine, and --nodes is {launch.nodes}: use --engine torchrun "
            "or slurm"
        )
    make = {"local": _local, "torchrun": _torchrun, "slurm": _slurm}[engine]
    return "\n".join(make(launch)) + "\n"


def _local(launch: Launch) -> list[str]:
    start = (
        f"exec {launch.command}"
        if launch.gpus == 1
        else f"exec torchrun --standalone --nproc-per-node {launch.gpus} \\\n    {launch.module}"
    )
    return [
        "#!/bin/bash",
        f"# {launch.gpus} process{'es' if launch.gpus > 1 else ''} on this machine. The same file "
        "goes on where it stopped.",
        "set -eu",
        start,
    ]


def _torchrun(launch: Launch) -> list[str]:
    return [
        "#!/bin/bash",
        f"# Start this on each of {launch.nodes} machines, with HEAD set to the first one's name:",
        "#   HEAD=node1 bash FILE",
        "# All must see the run's folder and the caches under the same paths. Started again, on as",
        "# many machines or others, it goes on where it stopped.",
        "set -eu",
        ': "${HEAD:?set HEAD to the name or address of the first machine}"',
        "exec torchrun \\",
        f"    --nnodes {launch.nodes} --nproc-per-node {launch.gpus} \\",
        f'    --rdzv-backend c10d --rdzv-endpoint "$HEAD:{PORT}" \\',
        f"    --rdzv-id {shlex.quote(launch.name)} \\",
        f"    {launch.module}",
    ]


def _slurm(launch: Launch) -> list[str]:
    asked = {"time": launch.time, "partition": launch.partition, "account": launch.account}
    return [
        "#!/bin/bash",
        f"#SBATCH --job-name={launch.name}",
        f"#SBATCH --nodes={launch.nodes}",
        f"#SBATCH --ntasks-per-node={launch.gpus}",
        f"#SBATCH --gpus-per-node={launch.gpus}",
        f"#SBATCH --cpus-per-task={launch.cpus}",
        *(f"#SBATCH --{name}={value}" for name, value in asked.items() if value is not None),
        f"#SBATCH --signal=TERM@{launch.notice}",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=%x-%j.log",
        "",
        "# One task a GPU, started by srun alone: a launcher between Slurm and the processes would",
        "# pass SIGTERM on a second time, and the second one ends a run before it has saved.",
        "set -u",
        'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))",
        "export MASTER_ADDR MASTER_PORT",
        f"export OMP_NUM_THREADS={launch.cpus}",
        "",
        "# shellcheck disable=SC2016  # each task knows its own numbers",
        "srun --kill-on-bad-exit=1 bash -c '",
        "    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS",
        '    exec "$@"\' task \\',
        f"    {launch.command}",
        "code=$?",
        "",
        f"# {STOPPED}: SIGTERM came (time is nearly up, or somebody else needs the machines), and",
        "# the run has saved. The same command goes on in the same job, when it is its turn.",
        f'if [ "$code" -eq {STOPPED} ]; then',
        '    scontrol requeue "$SLURM_JOB_ID" && exit 0',
        "fi",
        'exit "$code"',
    ]
