"""AdamW for one objective, and the learning rate as a pure function of progress."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from latentsmith.training.config import TrainConfig
from latentsmith.training.sharded import is_sharded, part_of, whole_tensor


def learning_rate(samples: int, cfg: TrainConfig, *, starts_at: int = 0) -> float:
    """Learning rate of the step that begins after ``samples`` samples.

    Linear warm-up over ``cfg.warmup`` samples counted from ``starts_at`` (an objective that joins
    late warms up late), then constant, or cosine to 0 at ``cfg.samples``. The first step of a
    warm-up is not wasted: it gets the rate of its *end*, (samples + batch) / warmup.
    """
    since = max(samples - starts_at, 0)
    if since < cfg.warmup:
        return cfg.lr * min((since + cfg.batch_size) / cfg.warmup, 1.0)
    if cfg.schedule == "constant":
        return cfg.lr
    length = max(cfg.samples - starts_at - cfg.warmup, 1)
    done = min((since - cfg.warmup) / length, 1.0)
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * done))


def adamw(
    params: Sequence[nn.Parameter],
    cfg: TrainConfig,
    undecayed: Sequence[nn.Parameter] = (),
    slower: Sequence[tuple[float, Sequence[nn.Parameter]]] = (),
) -> AdamW:
    """AdamW over float32 ``params``; weight decay acts on tensors of two dimensions or more, save
    those in ``undecayed``; learning rates of those in ``slower`` are scaled."""
    spared = {id(p) for p in undecayed} | {id(p) for p in params if p.ndim < 2}
    scales = {id(p): scale for scale, some in slower for p in some}
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for scale in (1.0, *dict.fromkeys(scales.values())):
        for decays in (True, False):
            found[scale, decays] = []
    for p in params:
        found[scales.get(id(p), 1.0), id(p) not in spared].append(p)
    groups = [
        {"params": some, "weight_decay": cfg.weight_decay if decays else 0.0, "scale": scale}
        for (scale, decays), some in found.items()
        if some
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in params)
    return AdamW(groups, lr=cfg.lr, betas=cfg.betas, fused=fused)


def set_lr(optimizer: AdamW, lr: float) -> None:
    """Set every group's learning rate, each on its scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def optimizer_tensors(optimizer: AdamW, names: dict[Tensor, str]) -> dict[str, Tensor]:
    """The state as named tensors, ``"<parameter>/<exp_avg|exp_avg_sq|step>"``: no pickle needed."""
    return {
        f"{names[param]}/{key}": value
        for param, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_tensors(
    optimizer: AdamW, names: dict[Tensor, str], tensors: dict[str, Tensor]
) -> None:
    """Inverse of `optimizer_tensors`. Parameters never stepped have no state, as before saving.

    Moments get their parameter's memory layout, which a file does not keep: the fused optimizer
    goes through both in memory order, and would pair the wrong elements of channels_last weights.
    """
    state: dict[int, dict[str, Tensor]] = {}
    position = 0
    for group in optimizer.param_groups:
        for param in group["params"]:
            own = {
                key: _laid_out(tensors[name], param)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if (name := f"{names[param]}/{key}") in tensors
            }
            if own:
                state[position] = own
            position += 1
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def clip_gradients(params: Sequence[nn.Parameter], most: float | None) -> Tensor:
    """Scale gradients so that their joint 2-norm is at most ``most``; return the norm before.

    The norm is also the cheapest complete test for NaN and infinity, so it is always computed.
    """
    grads = [p.grad for p in params if p.grad is not None]
    norm = whole_tensor(torch.nn.utils.get_total_norm(grads))
    if most is not None:
        torch.nn.utils.clip_grads_with_norm_(params, most, norm)
    return norm


def _laid_out(value: Tensor, param: Tensor) -> Tensor:
    """``value`` with the strides of ``param``, if it has its shape (a step count has not)."""
    if value.shape != param.shape:
        return value
    if is_sharded(param):
        return part_of(value, param)
    return torch.empty_like(param, dtype=value.dtype, device=value.device).copy_(value)
