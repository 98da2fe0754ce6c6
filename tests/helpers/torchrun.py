"""A recipe's stage in two real processes, started by torchrun."""

import os
import subprocess
import sys
from pathlib import Path


def torchrun(stage: str, settings: list[str], folder: Path, cache: Path) -> str:
    """Run ``latentsmith train <stage>`` in two processes of one thread each; what they said.

    Fails the test when they fail, with the end of what they said.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--standalone", "-m", "latentsmith", "train", stage, *settings]
    environment = {**os.environ, "LATENTSMITH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--out", str(folder)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout + done.stderr
