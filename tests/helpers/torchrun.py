"""Stages of a recipe in two real processes, started by torchrun.

Starting two processes takes longer than a smoke stage, so one start goes through several commands
(as this module's ``__main__``); ending each leaves the process group, which is kept here instead.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def torchrun(stages: list[str], settings: list[str], folder: Path, cache: Path) -> str:
    """Run ``latentsmith train <stage>`` for each in two processes of one thread; what they said.

    Fails the test when they fail, with the end of what they said.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    lines = [["train", stage, *settings, "--out", str(folder)] for stage in stages]
    environment = {**os.environ, "LATENTSMITH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, __file__, json.dumps(lines)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout + done.stderr


def _go(lines: list[list[str]]) -> int:
    import torch.distributed as dist

    from latentsmith.cli import main

    dist.destroy_process_group = lambda: None
    for line in lines:
        if code := main(line):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(_go(json.loads(sys.argv[1])))
