"""Training on text and latents through the common loop: it learns, resumes, and bears NaN."""

import json

import pytest
import torch

from helpers.text_latent import D, L, V, batch, config, process, rng, texts
from latentsmith.backbones.mmdit import MMDiTConfig
from latentsmith.diffusion.text_latent.task import TextLatentTask, text_bound
from latentsmith.errors import UserError
from latentsmith.losses.priors.diffusion import DiffusionPriorConfig
from latentsmith.losses.priors.moments import MomentsConfig
from latentsmith.losses.priors.reference import LatentReference
from latentsmith.sampling.text_latent.decode import decode
from latentsmith.sampling.text_latent.latents import one_step
from latentsmith.sampling.text_latent.search import search
from latentsmith.sampling.text_latent.tokens import TextSamplerConfig
from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import fit

PAIRS = 32


class Pairs:
    """Some pairs over and over, in a random order; rows of ``spoiled`` have NaN for a latent."""

    def __init__(self, size=16, spoiled=()):
        self.size, self.tokens = size, texts(PAIRS, 4)
        self.latents = torch.randn(PAIRS, D, generator=rng(4))
        self.latents[list(spoiled)] = torch.nan
        self.fingerprint = {"spoiled": list(spoiled)}

    def iterate(self, start):
        while True:
            rows = torch.randperm(PAIRS, generator=rng(start))[: self.size]
            yield {"index": rows, "tokens": self.tokens[rows], "latents": self.latents[rows]}
            start += self.size


def small_task(mode="l2t+t2l", **settings):
    net = MMDiTConfig(size="smoke").build(V, L, (D,))
    reference = LatentReference.fit(Pairs().latents)
    return TextLatentTask(net, config(mode, **settings), process(), reference=reference)


def train(folder, task, samples, *, until=None, source=None, **settings):
    given = {
        "samples": samples, "batch_size": 16, "lr": 3e-3, "trackers": [], "log_every": 160,
        "save_every": samples, "validate_every": samples, "betas": (0.9, 0.98),
    }  # fmt: skip
    cfg = TrainConfig(**(given | settings))
    return fit(task, source or Pairs(), cfg, folder, until=until)


def test_overfits_both_directions_and_the_cycle_and_uses_the_latent(tmp_path):
    """32 pairs by heart: the pipeline can learn. Tokens and latents are random, so nothing but the
    pairing helps, and another sample's latent does harm."""
    late = {"weight": 0.1, "warmup": 0.5, "every": 8, "steps": 2}
    task = small_task(
        modes={"text_times": "mix"}, t2l2t={"weight": 0.3, "warmup": 0.4, "ramp": 0.1}, l2t2l=late
    )
    result = train(tmp_path, task, 32 * 150, source=Pairs(32), batch_size=32, lr=1e-2)
    data, m = Pairs(), task.model
    said = decode(m, data.latents, TextSamplerConfig(steps=4), rng())
    content = data.tokens != 1
    assert (said.tokens == data.tokens)[content].float().mean() > 0.95
    back = one_step(m, data.tokens, rng(), draws=4).latents
    nearest = torch.cdist(back, data.latents).argmin(1)
    assert (nearest == torch.arange(PAIRS)).float().mean() > 0.95
    assert torch.cosine_similarity(back, data.latents).mean() > 0.9
    assert result.last["text_latent/cycle_text"] < 0.2
    own, other = (
        text_bound(m, data.tokens, z, rng(), draws=4).mean()
        for z in (data.latents, data.latents.roll(1, 0))
    )
    assert other - own > L * 0.5
    drawn = TextSamplerConfig(temperature=1.0)
    found = search(m, data.latents, drawn, rng(), candidates=4).best()
    assert (found.tokens == data.tokens)[content].float().mean() > 0.9


EVERYTHING = {
    "t2l2t": {"weight": 0.1, "bridge": "scaled"},
    "l2t2l": {"weight": 0.1, "temperature": 1.0, "steps": 2},
}


@pytest.mark.parametrize(
    ("mode", "prior"),
    [
        ("random", DiffusionPriorConfig(weight=0.1, warmup=0.0, ramp=0.0)),
        ("sequential", MomentsConfig(weight=0.1, warmup=0.0, ramp=0.0, reference="data", queue=40)),
    ],
)
def test_resumed_is_uninterrupted(tmp_path, mode, prior):
    """Modes, queue and averaged judge come back from a checkpoint."""
    one, two = (small_task(mode, prior=prior, **EVERYTHING) for _ in range(2))
    train(tmp_path / "one", one, 16 * 7)
    train(tmp_path / "two", two, 16 * 7, until=16 * 3)
    resumed = small_task(mode, prior=prior, **EVERYTHING)
    train(tmp_path / "two", resumed, 16 * 7)
    for name, value in one.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_nan_is_skipped_written_down_and_borne_up_to_the_budget(tmp_path):
    task = small_task("random")
    train(tmp_path, task, 16 * 6, source=Pairs(spoiled=[5]), nonfinite_budget=10)
    lines = [json.loads(x) for x in (tmp_path / "nonfinite.jsonl").read_text().splitlines()]
    assert lines and all(5 in line["index"] for line in lines)
    assert all(p.isfinite().all() for p in task.parameters())
    with pytest.raises(UserError, match="2 steps of a budget of 1"):
        every = list(range(PAIRS))
        train(
            tmp_path / "all", small_task("t2l"), 16 * 6, source=Pairs(spoiled=every),
            nonfinite_budget=1,
        )  # fmt: skip


def test_a_step_that_is_skipped_moves_no_running_statistics(tmp_path):
    prior = MomentsConfig(weight=0.1, warmup=0.0, ramp=0.0, reference="data", queue=32)
    task = small_task("t2l", prior=prior)
    net = [p.detach().clone() for p in task.network.parameters()]
    train(tmp_path, task, 16 * 2, source=Pairs(spoiled=list(range(PAIRS))))
    assert all(torch.equal(a, b) for a, b in zip(net, task.network.parameters(), strict=True))
    assert batch()["tokens"].shape == (16, L) and not task.prior.queue.isnan().any()
