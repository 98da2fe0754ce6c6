"""Runs of recipes, to be killed; and the campaign that kills them."""

import json
import os
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from faults.figures import Figures
from helpers.nursery import Nursery
from latentsmith.cli import main
from latentsmith.config.compose import compose
from latentsmith.training import checkpoint
from latentsmith.training.engine import Engine
from latentsmith.training.loop import Loop
from latentsmith.utils.digest import state_digest

RECIPES = {
    "mmreg": ["run", "mmreg", "scale=smoke", "--until", "regularized"],
    "textlatent": ["run", "textlatent", "scale=smoke", "--until", "base"],
}
"""The training stages, with the caches they are made from."""

PREPARED = "LATENTSMITH_TESTS_PREPARE_RUNS"
"""Set for a nursery of runs, whose children shall find everything loaded."""


# ---- in the child -------------------------------------------------------------------------------


def prepare() -> None:
    """Import and load what every run needs, in the nursery's server."""
    import accelerate  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: F401

    for words in RECIPES.values():
        compose(words[1], [word for word in words if "=" in word])


def run(
    recipe: str, root: str, number: int | None, out: str | None = None, clock: float = 0.0
) -> int:
    """The command; what was trained from where goes into ROOT/begun, the steps into ROOT/steps.

    Args:
        root: folder of the run and of its cache.
        number: die at this step, None: at none.
        out: another folder for the run.
        clock: seconds that the clock is off.
    """
    from helpers import steps

    os.environ["LATENTSMITH_CACHE"] = f"{root}/cache"
    train = Loop.train

    def noted(self: Loop, batches: Any) -> None:
        with Path(f"{root}.begun").open("a") as file:
            file.write(f"{self.folder.name} {self.state.samples}\n")
        train(self, batches)

    Loop.train = noted
    now = time.time
    time.time = lambda: now() + clock
    taken = steps.die_at(root, number)
    steps.around(Engine, "step")
    code = main([*RECIPES[recipe], "--out", out or f"{root}/run"])
    Path(f"{root}.steps").write_text(json.dumps(taken()))
    return code


# ---- in the parent ------------------------------------------------------------------------------


class Training:
    """A run that children carry out, seen from outside."""

    def __init__(self, nursery: Nursery, recipe: str, root: Path):
        root.mkdir(parents=True)
        self.nursery, self.recipe, self.root = nursery, recipe, root
        self.begun = Path(f"{root}.begun")
        self.begun.touch()
        self.figures = Figures()

    def go(
        self, number: int | None = None, kill_after: float | None = None, clock: float = 0.0
    ) -> bool:
        """The command once; gives whether it came to its end, and counts how the run fared."""
        stages, trained, lines = self._stages(), self._trained(), len(self._begun())
        words = (self.recipe, str(self.root), number, None, clock)
        child = self.nursery.start("faults.training:run", *words)
        if kill_after is not None:
            time.sleep(kill_after)
            child.kill()
        code = child.wait()
        assert code in (0, -9), self.nursery.said()
        now = self._trained()
        lost = len(stages - self._stages()) + sum(n > now.get(k, -1) for k, n in trained.items())
        again = sum(
            start < trained.get(name, 0) or name in stages for name, start in self._begun()[lines:]
        )
        hit = code == -9
        self.figures += Figures(hit, hit and not lost and not again, lost, again)
        return code == 0

    def picture(self) -> dict[str, Any]:
        """What two equal runs have in common: every file's name, tensors to the last bit, records
        without times."""
        run = self.root / "run"
        files = (p for p in run.rglob("*") if p.is_file() and "tensorboard" not in p.parts)
        return {p.relative_to(run).as_posix(): _content(p) for p in files}

    def _stages(self) -> set[str]:
        return {file.stem for file in self.root.glob("run/stages/*.json")}

    def _trained(self) -> dict[str, int]:
        """Name of a training → samples of its newest intact checkpoint."""
        found = {}
        for root in self.root.glob("run/training/*/checkpoints"):
            newest = checkpoint.newest_valid(root, lambda text: None)
            found[root.parent.name] = newest[1]["samples"] if newest else 0
        return found

    def _begun(self) -> list[tuple[str, int]]:
        lines = [line.split() for line in self.begun.read_text().splitlines()]
        return [(name, int(samples)) for name, samples in lines]


def _content(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return state_digest(load_file(file))
    if file.suffix == ".jsonl":
        records = [json.loads(line) for line in file.read_text().splitlines()]
        return [{k: v for k, v in r.items() if k != "samples_per_second"} for r in records]
    if file.suffix == ".png":
        return file.read_bytes()
    return None  # times and machines are in it


@dataclass(frozen=True)
class Unharmed:
    """A run that nobody harmed: its picture, how many steps and seconds it took."""

    picture: dict[str, Any]
    steps: int
    seconds: float


def unharmed(nursery: Nursery, recipe: str, root: Path) -> Unharmed:
    """Carry out the command once."""
    run, began = Training(nursery, recipe, root), time.monotonic()
    assert run.go()
    seconds = time.monotonic() - began
    return Unharmed(run.picture(), json.loads(Path(f"{root}.steps").read_text()), seconds)


def check_same(whole: Unharmed, one: Training) -> None:
    """Raises AssertionError naming the files that differ."""
    found, wanted = one.picture(), whole.picture
    names = {n for n in {*wanted, *found} if wanted.get(n, "-") != found.get(n, "-")}
    assert not names, f"not equal to the unharmed run: {sorted(names)[:9]}"


def kill_training(
    nursery: Nursery, recipe: str, folder: Path, whole: Unharmed, *, instants: int, seed: int = 0
) -> Figures:
    """Kill runs until so many processes have been hit, each run again and again until it is
    finished: at random steps and by the clock, in turns."""
    rng, figures, number = random.Random(seed), Figures(), 0
    while figures.tried < instants:
        one, ended = Training(nursery, recipe, folder / f"run-{number}"), False
        number += 1
        while not ended and figures.tried + one.figures.tried < instants:
            if rng.random() < 0.7:
                ended = one.go(number=rng.randint(1, whole.steps // 2))
            else:
                ended = one.go(kill_after=rng.uniform(0, 0.6 * whole.seconds))
        assert ended or one.go(), "the same command comes to the end"
        check_same(whole, one)
        figures += one.figures + Figures(finished=1)
        shutil.rmtree(one.root)
    return figures


if os.environ.get(PREPARED):
    prepare()
