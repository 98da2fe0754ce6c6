"""Memory that runs out while training becomes one sentence."""

import pytest
import torch
from toy_training import Denoiser, Source

from latentsmith.errors import UserError
from latentsmith.training.config import TrainConfig
from latentsmith.training.exhausted import OutOfMemory, is_exhausted
from latentsmith.training.loop import fit

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to"
    " allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)"
)
GPU = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.19 GiB"


@pytest.mark.parametrize("error", [RuntimeError(CPU), torch.OutOfMemoryError(GPU), MemoryError()])
def test_a_step_that_does_not_fit_says_where_and_what_to_set(tmp_path, error):
    class Greedy(Denoiser):
        def forward(self, objective, batch, ctx):
            raise error

    cfg = TrainConfig(samples=64, batch_size=16, micro_batch=8, trackers=[])
    with pytest.raises(UserError) as told:
        fit(Greedy(), Source(16), cfg, tmp_path / "generator-3")
    assert isinstance(told.value, OutOfMemory) and told.value.micro == 8
    text = str(told.value)
    assert text.startswith("out of memory in generator-3 on cpu: batch_size 16, 8 samples at once")
    assert "Use micro_batch=4 or less" in text and "\n" not in text


def test_other_errors_stay_what_they_are():
    assert not is_exhausted(RuntimeError("shapes differ")) and not is_exhausted(ValueError(CPU))


def test_a_single_sample_cannot_be_cut():
    cfg = TrainConfig(samples=8, batch_size=2, micro_batch=1)
    error = OutOfMemory("x", cfg, 2, torch.device("cpu"), "no room")
    assert "Use a device with more memory" in str(error)
    assert "on each of 2 processes" in str(error)
