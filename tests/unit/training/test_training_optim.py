"""Schedules as functions of progress, decay groups, state without pickle."""

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from latentsmith.errors import UserError
from latentsmith.training.config import MAY_CHANGE, TrainConfig
from latentsmith.training.optim import (
    adamw,
    clip_gradients,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
)


def test_learning_rate_warms_up_then_falls_to_zero():
    cfg = TrainConfig(samples=1000, batch_size=10, lr=2.0, warmup=100)
    rates = [learning_rate(s, cfg) for s in range(0, 1001, 10)]
    assert rates[:10] == pytest.approx([0.2 * k for k in range(1, 11)])
    assert rates[10] == 2.0 and rates[55] == pytest.approx(1.0) and rates[-1] == 0.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[30] == pytest.approx(1 + math.cos(math.pi * 200 / 900))


def test_learning_rate_constant_and_late_start():
    cfg = TrainConfig(samples=1000, batch_size=10, lr=2.0, warmup=100, schedule="constant")
    assert learning_rate(999, cfg) == 2.0
    assert learning_rate(500, cfg, starts_at=500) == pytest.approx(0.2)
    assert learning_rate(600, cfg, starts_at=500) == 2.0
    late = TrainConfig(samples=1000, batch_size=10, lr=2.0, warmup=100)
    assert learning_rate(600, late, starts_at=500) == 2.0
    assert learning_rate(1000, late, starts_at=500) == 0.0


def test_weight_decay_acts_on_matrices_only():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Conv2d(1, 1, 3))
    optimizer = adamw(list(model.parameters()), TrainConfig(lr=0.1, weight_decay=0.5))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 0.95 if p.ndim > 1 else 1.0
        torch.testing.assert_close(p, before[name] * factor)


def test_weight_decay_leaves_some_matrices_alone():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    params = list(model.parameters())
    optimizer = adamw(params, TrainConfig(lr=0.1, weight_decay=0.5), undecayed=params[:1])
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(params[0].detach(), before[0])
    torch.testing.assert_close(params[1].detach(), before[1] * 0.95)


def test_state_round_trip_steps_alike_and_unstepped_parameters_have_none():
    def build():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        return model, adamw(list(model.parameters()), TrainConfig())

    (a, opt_a), (b, opt_b) = build(), build()
    for p in a[0].parameters():
        p.grad = torch.randn_like(p)
    opt_a.step()
    names = {p: n for n, p in a.named_parameters()}
    stored = {n: t.clone() for n, t in optimizer_tensors(opt_a, names).items()}
    assert {n.split("/")[0] for n in stored} == {"0.weight", "0.bias"}
    b.load_state_dict(a.state_dict())
    load_optimizer_tensors(opt_b, {p: n for n, p in b.named_parameters()}, stored)
    for model, opt in ((a, opt_a), (b, opt_b)):
        for p in model.parameters():
            p.grad = torch.full_like(p, 0.3)
        opt.step()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert p.equal(q)


def test_clip_gradients_scales_the_joint_norm():
    params = [
        nn.Parameter(torch.zeros(3)),
        nn.Parameter(torch.zeros(4)),
        nn.Parameter(torch.ones(1)),
    ]
    params[0].grad, params[1].grad = torch.full((3,), 2.0), torch.full((4,), 1.0)
    assert clip_gradients(params, None) == 4.0 and params[0].grad[0] == 2.0
    assert clip_gradients(params, 1.0) == 4.0
    assert params[0].grad[0] == pytest.approx(0.5, rel=1e-5)
    assert clip_gradients(params, 100.0) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"batch_size": 60, "micro_batch": 16}, "use micro_batch=15 or batch_size=64"),
        ({"samples": 10, "batch_size": 64}, "raise samples or lower batch_size"),
        ({"samples": 1000, "warmup": 2000}, "it counts samples, not steps"),
        ({"betas": [0.9, 1.0]}, "must both be in"),
        ({"epochs": 3}, "epochs"),
        ({"precision": "fp8"}, "'fp32', 'bf16' or 'fp16'"),
        ({"ema": 1.0}, "less than 1"),
        ({"lr": 0}, "greater than 0"),
        ({"trackers": ["csv"]}, "tensorboard"),
    ],
)
def test_bad_settings_name_the_fix(settings, fix):
    with pytest.raises(ValidationError, match=fix):
        TypeAdapter(TrainConfig).validate_python(settings)


def test_batches_divide_over_processes_and_micro_batches():
    cfg = TrainConfig(batch_size=48, micro_batch=16)
    assert cfg.micros(1) == 3 and TrainConfig(batch_size=48).micros(2) == 1
    with pytest.raises(UserError, match=r"24 samples .* use micro_batch=12"):
        cfg.micros(2)
    with pytest.raises(UserError, match="does not divide over 5 processes: use a multiple, as 50"):
        cfg.micros(5)


def test_what_may_change_exists():
    assert set(MAY_CHANGE) <= set(TrainConfig.__dataclass_fields__)
