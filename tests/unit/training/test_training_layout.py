"""A resumed optimizer pairs weights and moments as before, whatever their layout in memory."""

import torch
from torch import nn

from latentsmith.training.config import TrainConfig
from latentsmith.training.optim import adamw, load_optimizer_tensors, optimizer_tensors, set_lr


def steps(weight, optimizer, seeds):
    for seed in seeds:
        weight.grad = torch.randn(
            weight.shape, generator=torch.Generator().manual_seed(seed)
        ).contiguous(memory_format=torch.channels_last)
        set_lr(optimizer, 0.1)
        optimizer.step()


def test_moments_of_channels_last_weights_are_found_again():
    start = torch.arange(4 * 3 * 5 * 5.0).view(4, 3, 5, 5)

    def made(values):
        weight = nn.Parameter(values.clone().contiguous(memory_format=torch.channels_last))
        return weight, adamw([weight], TrainConfig())

    weight, optimizer = made(start)
    steps(weight, optimizer, range(4))
    half, before = made(start)
    steps(half, before, range(2))
    saved = {k: t.contiguous() for k, t in optimizer_tensors(before, {half: "w"}).items()}
    resumed, after = made(half.detach())
    load_optimizer_tensors(after, {resumed: "w"}, saved)
    steps(resumed, after, range(2, 4))
    assert torch.equal(resumed, weight)
