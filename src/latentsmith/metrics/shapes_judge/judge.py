"""The trained judge: made once for each setting, kept, and refused where it is too weak."""

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.base import versions
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.shapes_judge.config import JudgeConfig
from latentsmith.metrics.shapes_judge.network import JudgeNet
from latentsmith.metrics.shapes_judge.training import JudgeTask, Renders, accuracy, draw
from latentsmith.training.loop import fit
from latentsmith.utils.cache import cache_root
from latentsmith.utils.digest import json_digest, state_digest
from latentsmith.utils.distributed import world_size
from latentsmith.utils.files import atomic_folder, write_json
from latentsmith.utils.lock import alone

log = logging.getLogger(__name__)
BATCH = 256
VALIDATED = 1024
"""Held-out pictures of the validations while it trains."""


class Judge:
    """Reads background and objects off pictures of captioned shapes.

    Attributes:
        record: what `save` writes beside the weights: settings, resolution, ``accuracy`` on
            held-out pictures (``clean``, and ``spoiled`` as in training: share right of each part,
            ``joint``, ``n``), versions, how long the training took.
    """

    def __init__(self, net: JudgeNet, record: dict[str, Any]):
        self.net, self.record = net.eval().requires_grad_(False), record

    @classmethod
    def load_or_train(
        cls, config: JudgeConfig, resolution: int, cache: Path | None = None
    ) -> "Judge":
        """The judge of these settings, from the cache; trained first where it is not there.

        Trained once, also when several processes ask at a time; a training that was interrupted
        goes on. A damaged judge is reported and made anew.

        Args:
            resolution: side of the pictures in pixels.
            cache: folder of all caches, `latentsmith.utils.cache.cache_root` when left out.

        Raises:
            UserError: it reads less than ``config.minimum`` of held-out pictures right; or it
                would have to be trained in a run of several processes.
        """
        path = judge_path(config, resolution, cache)
        with alone(path):
            judge = _known(path, config, resolution)
            if judge is None:
                judge = _train(path, config, resolution)
        return judge.check(config.minimum)

    @classmethod
    def load(cls, folder: Path, config: JudgeConfig, resolution: int) -> "Judge":
        """What `save` wrote, only if it is of exactly these settings; however good it is.

        Raises:
            UserError: no such folder, damaged, or of other settings (each is named).
        """
        folder = Path(folder)
        try:
            record = json.loads((folder / "judge.json").read_text())
            weights = load_file(folder / "judge.safetensors")
            whole = record["digest"] == _digest(record, weights)
            made = record["made"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(
                f"cannot load the judge in {folder}: {error}. Remove the folder, and it is trained "
                "again"
            ) from error
        if not whole:
            raise UserError(
                f"the judge in {folder} is damaged: weights or record are not what was written. "
                "Remove the folder, and it is trained again"
            )
        wanted = _flat(config.identity(resolution))
        have = _flat(made)
        changed = [
            f"{key} {have.get(key)!r}, wanted {wanted.get(key)!r}"
            for key in sorted(wanted | have)
            if have.get(key) != wanted.get(key)
        ]
        if changed:
            raise UserError(f"the judge in {folder} was made otherwise: {'; '.join(changed)}")
        net = JudgeNet(config.width)
        net.load_state_dict(weights)
        return cls(net, record)

    def save(self, folder: Path, log: Path | None = None) -> Path:
        """Write weights and record, all or nothing; with a copy of the training's ``log``."""
        weights = {name: v.cpu().contiguous() for name, v in self.net.state_dict().items()}
        with atomic_folder(Path(folder)) as tmp:
            save_file(weights, tmp / "judge.safetensors")
            write_json(tmp / "judge.json", self.record | {"digest": _digest(self.record, weights)})
            if log is not None:
                shutil.copyfile(log, tmp / log.name)
        return Path(folder)

    @property
    def resolution(self) -> int:
        """Side in pixels of the pictures it reads."""
        return self.record["made"]["resolution"]

    @property
    def joint_accuracy(self) -> float:
        """Share of clean held-out pictures of which it reads everything right."""
        return self.record["accuracy"]["clean"]["joint"]

    @property
    def name(self) -> str:
        """``shapes_judge@64#1f3a5b7c``: resolution and the first digits of `digest`."""
        return f"shapes_judge@{self.resolution}#{self.digest()[:8]}"

    def digest(self) -> str:
        """Of the weights."""
        return state_digest(self.net.state_dict())

    def fingerprint(self) -> dict[str, Any]:
        """For stamps: which judge, and how good it is itself."""
        accuracy = self.record["accuracy"]["clean"]
        return {"judge": self.name, "judge_joint": accuracy["joint"], "judge_n": accuracy["n"]}

    def check(self, minimum: float) -> "Judge":
        """Itself. Raises UserError when it reads less than ``minimum`` of held-out pictures."""
        if self.joint_accuracy < minimum:
            n, size = self.record["accuracy"]["clean"]["n"], self.resolution
            raise UserError(
                f"the judge of {size} x {size} pictures reads only {self.joint_accuracy:.4f} of "
                f"{n:,} held-out ones entirely right, below the minimum of {minimum}: judging by "
                "it would measure the judge. Train it longer (samples), judge larger pictures, or "
                "lower its minimum and say so"
            )
        return self

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """What pictures show, tables by cell int64 [N, 10, 4] on the CPU
        (`latentsmith.metrics.shapes_judge.tables`).

        Args:
            images: float [N, 3, R, R] in [0, 1], R the judge's resolution.

        Raises:
            UserError: other shapes or ranges, NaN, no image.
        """
        size = self.resolution
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise UserError(
                f"this judge reads images [N, 3, {size}, {size}], got {list(images.shape)}"
            )
        check_count(len(images), 1, "a judge", "image")
        if not images.is_floating_point():
            raise UserError("images to judge must be float in [0, 1]; divide integers by 255")
        check_finite(images, "images")
        low, high = float(images.min()), float(images.max())
        if low < -1e-3 or high > 1 + 1e-3:
            raise UserError(
                f"images to judge must lie in [0, 1], these reach from {low:.3g} to {high:.3g}: "
                "clamp them (from [-1, 1]: (x + 1) / 2 first)"
            )
        device = next(self.net.parameters()).device
        parts = images.split(BATCH)
        return torch.cat([self.net(x.to(device).float()).tables().cpu() for x in parts])


def judge_path(config: JudgeConfig, resolution: int, cache: Path | None = None) -> Path:
    """Where the judge of these settings is kept."""
    digest = json_digest(config.identity(resolution))[:16]
    return Path(cache or cache_root()) / "judges" / f"shapes-{resolution}-{digest}"


def _digest(record: dict[str, Any], weights: dict[str, Tensor]) -> str:
    rest = {key: value for key, value in record.items() if key != "digest"}
    return json_digest([state_digest(weights), rest])


def _flat(value: dict[str, Any]) -> dict[str, Any]:
    """Settings one level deep, by name."""
    rest = {key: part for key, part in value.items() if key != "settings"}
    return {**rest, **value.get("settings", {})}


def _known(path: Path, config: JudgeConfig, resolution: int) -> Judge | None:
    """The judge in ``path``; None when there is none or it cannot serve."""
    if not path.exists():
        return None
    try:
        return Judge.load(path, config, resolution)
    except UserError as reason:
        log.warning("judge: training again, %s", reason)
        return None


def _train(path: Path, config: JudgeConfig, resolution: int) -> Judge:
    """Train, measure, save. The training's own folder goes only after the judge stands."""
    if world_size() > 1:
        raise UserError(
            f"there is no judge of {resolution} x {resolution} shapes yet, and one is trained by a "
            "single process: ask for it once outside this run of several"
        )
    log.info("judge: learning to read %d x %d shapes", resolution, resolution)
    made, folder = config.identity(resolution), path.with_name(f".{path.name}.training")
    task, cpu = JudgeTask(config), time.process_time()
    result = fit(
        task,
        Renders(config.data(resolution, "train"), config.batch_size),
        config.train(),
        folder,
        val_batch=_validation(config, resolution),
        identity={"judge": made},
    )
    seconds = {"wall": round(result.seconds, 1), "cpu": round(time.process_time() - cpu, 1)}
    net = task.net.cpu()
    measured = {
        "clean": accuracy(net, config, resolution, spoiled=False),
        "spoiled": accuracy(net, config, resolution, spoiled=True),
    }
    record = {"made": made, "accuracy": measured, "seconds": seconds, "versions": versions()}
    judge = Judge(net, record)
    judge.save(path, folder / "metrics.jsonl")
    shutil.rmtree(folder, ignore_errors=True)
    log.info("judge: reads %.4f of %d held-out pictures", judge.joint_accuracy, config.test_count)
    return judge


def _validation(config: JudgeConfig, resolution: int) -> dict[str, Any]:
    dataset = config.data(resolution, "val")
    return draw(dataset, torch.arange(min(VALIDATED, len(dataset))))
