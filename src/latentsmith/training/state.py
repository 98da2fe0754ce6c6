"""Everything that changes while training, and its way into a checkpoint and back."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsmith.errors import UserError
from latentsmith.training import checkpoint
from latentsmith.training.config import MAY_CHANGE, TrainConfig
from latentsmith.training.ema import EMA
from latentsmith.training.guard import Guard
from latentsmith.training.metering import Meter
from latentsmith.training.optim import load_optimizer_tensors, optimizer_tensors
from latentsmith.training.sharded import copy_into, whole, whole_tensor
from latentsmith.training.sharding import Shards
from latentsmith.training.spikes import Spikes
from latentsmith.training.stepper import Stepper


def conditions(
    cfg: TrainConfig, fingerprint: dict[str, Any], identity: dict[str, Any]
) -> dict[str, Any]:
    """What a checkpoint belongs to, as plain JSON values."""
    value = {"train": dataclasses.asdict(cfg), "data": fingerprint, "identity": identity}
    return json.loads(json.dumps(value, allow_nan=False))


@dataclass
class TrainState:
    """Where a training stands.

    Attributes:
        params: name → trainable parameter.
        buffers: name → buffer outside frozen parts.
        conditions: what the run depends on; a checkpoint made under others is refused.
    """

    params: dict[str, nn.Parameter]
    buffers: dict[str, Tensor]
    steppers: list[Stepper]
    ema: EMA | None
    guard: Guard
    spikes: Spikes
    conditions: dict[str, Any] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)
    samples: int = 0
    steps: int = 0
    seconds: float = 0.0
    last: dict[str, float] = field(default_factory=dict)

    @property
    def names(self) -> dict[Tensor, str]:
        """Trainable parameter → name."""
        return {param: name for name, param in self.params.items()}

    def tensors(self, *, keep: bool = True) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds: file stem → name → whole tensor. The same whether parameters are
        sharded or not; if so, all processes must call this.

        Args:
            keep: whether this process wants them.
        """
        names = self.names
        groups: dict[str, dict[str, Tensor]] = {"model": {**self.params, **self.buffers}}
        groups["optimizer"] = {
            f"{s.name}/{name}": tensor
            for s in self.steppers
            for name, tensor in optimizer_tensors(s.optimizer, names).items()
        }
        if self.ema is not None:
            groups["ema"] = self.ema.tensors()
        return {stem: whole(group, keep=keep) for stem, group in groups.items()}

    def save(self, root: Path, keep: int, tensors: dict[str, dict[str, Tensor]]) -> Path:
        """Write a checkpoint of `tensors` under ``root``, then delete all but the ``keep`` newest.

        Raises:
            UserError: the disk is full, or training has left the finite numbers: a checkpoint of
                NaN would in the end push out all good ones.
        """
        path = checkpoint.folder_of(root, self.samples)
        trained = {n: t for n, t in tensors["model"].items() if n in self.params}
        self._refuse_not_finite(tensors | {"model": trained}, path)
        checkpoint.write(path, tensors, self._scalars())
        checkpoint.prune(root, path, keep)
        return path

    def _refuse_not_finite(self, groups: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
        own = {f"{g} {n}": t for g, group in groups.items() for n, t in group.items()}
        flags = torch.stack([t.detach().isfinite().all() for t in own.values()])
        bad = [name for name, good in zip(own, flags.tolist(), strict=True) if not good]
        if bad:
            older = [p for p in checkpoint.listed(path.parent) if p.name < path.name]
            kept = f"{older[-1]} is intact" if older else "there is none before it"
            raise UserError(
                f"training stopped at {self.samples:,} samples: {len(bad)} of {len(own)} tensors "
                f"are NaN or infinite ({', '.join(bad[:3])}). This is not saved; checkpoint "
                f"{kept}. Lower train.lr, or train.clip, in a new folder"
            )

    def _scalars(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "steps": self.steps,
            "seconds": self.seconds,
            "ema_updates": self.ema.updates if self.ema is not None else None,
            "scalers": {s.name: s.scaler.state_dict() for s in self.steppers if s.scaler},
            "nonfinite": self.guard.count,
            "spikes": self.spikes.state(),
            "meter": self.meter.state(),
            "last": {name: repr(value) for name, value in self.last.items()},
            "torch": torch.__version__,
            "conditions": self.conditions,
        }

    def load(self, path: Path, scalars: dict[str, Any]) -> None:
        """Inverse of `save`, from a verified checkpoint.

        Raises:
            UserError: the checkpoint holds other tensors than this model has.
        """
        _copy_all({**self.params, **self.buffers}, checkpoint.load(path, "model"), path)
        if self.ema is not None:
            averages = checkpoint.load(path, "ema")
            _copy_all(self.ema.tensors(), averages, path)
            self.ema.updates = scalars["ema_updates"]
        names = self.names
        optimizer = checkpoint.load(path, "optimizer")
        for stepper in self.steppers:
            head = f"{stepper.name}/"
            own = {n.removeprefix(head): t for n, t in optimizer.items() if n.startswith(head)}
            load_optimizer_tensors(stepper.optimizer, names, own)
            if stepper.scaler is not None:
                stepper.scaler.load_state_dict(scalars["scalers"][stepper.name])
        device = next(iter(self.params.values())).device
        self.meter.load(scalars["meter"], device)
        self.samples, self.steps = scalars["samples"], scalars["steps"]
        self.seconds, self.guard.count = scalars["seconds"], scalars["nonfinite"]
        self.spikes.load(scalars.get("spikes", {}))
        self.last = {name: float(value) for name, value in scalars["last"].items()}

    @torch.no_grad()
    def unshard(self, shards: Shards) -> None:
        """Whole parameters and averages on every process again, for good; moments are dropped."""
        names = {part: name for name, part in self.params.items()}
        averages = self.ema.tensors() if self.ema is not None else {}
        averages = {name: whole_tensor(average) for name, average in averages.items()}
        self.steppers = []
        shards.undo()
        self.params = {names[part]: original for part, original in shards.originals.items()}
        if self.ema is not None:
            self.ema.move(self.params, averages)


def check_conditions(
    path: Path, scalars: dict[str, Any], now: dict[str, Any], say: Callable[[str], None]
) -> None:
    """Compare a checkpoint's conditions with this run's; ``say`` the allowed changes.

    Raises:
        UserError: listing every other difference with both values.
    """
    refused = []
    for key, (old, new) in checkpoint.differences(scalars["conditions"], now).items():
        if key in {f"train.{name}" for name in MAY_CHANGE}:
            say(f"{key} changed since the checkpoint: {old} → {new}")
        else:
            refused.append(f"  {key}: {old!r} in the checkpoint, {new!r} now")
    if refused:
        lines = "\n".join(refused)
        raise UserError(
            f"{path} was made under other conditions:\n{lines}\n"
            f"Put them back to resume, or train in a new folder. (Of train, a resumed run may "
            f"change {', '.join(MAY_CHANGE)}.)"
        )


@torch.no_grad()
def _copy_all(into: dict[str, Tensor], source: dict[str, Tensor], path: Path) -> None:
    missing = sorted(set(into) - set(source))
    extra = sorted(set(source) - set(into))
    shapes = [
        f"{n} {tuple(source[n].shape)} for {tuple(t.shape)}"
        for n, t in into.items()
        if n in source and source[n].shape != t.shape
    ]
    if missing or extra or shapes:
        raise UserError(
            f"{path} holds another model: missing {missing[:4]}, unknown {extra[:4]}, "
            f"of another shape {shapes[:4]}. Train in a new folder"
        )
    for name, tensor in into.items():
        copy_into(tensor, source[name])
