"""A path written as diffusers' scheduler is the path that is read."""

import pytest
import torch
from diffusers import DDIMScheduler

from latentsmith.diffusion.scheduler import read_scheduler, save_scheduler
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.errors import UserError

PATHS = [
    VPPathConfig(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    VPPathConfig(),
    VPPathConfig(schedule="cosine", timesteps=200),
    VPPathConfig(schedule="scaled_linear", zero_terminal_snr=True),
    VPPathConfig(timesteps=3, trained_betas=[0.1, 0.2, 0.3]),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("predicts", ["noise", "v", "data"])
def test_what_is_written_is_read(path, predicts, tmp_path):
    save_scheduler(path, predicts, tmp_path / "scheduler")
    facts = read_scheduler(tmp_path)
    assert facts.predicts == predicts
    assert torch.equal(facts.path.alphas_cumprod(), path.alphas_cumprod())


@pytest.mark.parametrize("path", PATHS)
def test_diffusers_has_the_same_schedule(path, tmp_path):
    save_scheduler(path, "v", tmp_path)
    theirs = DDIMScheduler.from_pretrained(tmp_path).alphas_cumprod.double()
    assert torch.allclose(theirs, path.alphas_cumprod(), rtol=2e-4, atol=1e-6)


def test_a_flow_has_none(tmp_path):
    with pytest.raises(UserError, match="velocity"):
        save_scheduler(PATHS[0], "velocity", tmp_path)
