"""Latents of a score, made in shards: the same whoever makes them, gone on with after a stop."""

import pytest
import torch

from helpers.tiny_models import tiny_generator
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.guidance.none import NoGuidanceConfig
from latentsmith.sampling.many import Score, made_latents
from latentsmith.sampling.samplers.euler import EulerConfig
from latentsmith.training.team import Team

COUNT = 11
HOW = Score(COUNT, 3, EulerConfig(steps=2), NoGuidanceConfig(), 0)
ALONE = Team(None, torch.device("cpu"), 0, 1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    return tiny_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture
def generator(saved, tmp_path, monkeypatch) -> LatentGenerator:
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path))
    return LatentGenerator.load(saved)


def wanted(generator: LatentGenerator) -> torch.Tensor:
    return generator.sample_latents(
        range(COUNT), sampler=HOW.sampler, guidance=HOW.guidance, batch_size=HOW.batch_size
    )


def counted(generator: LatentGenerator, monkeypatch, most: int = 99) -> list[int]:
    """Numbers of the samples that are made from now on; Ctrl-C at the ``most + 1``-th batch."""
    made, sample = [], generator.sample_latents

    def noting(numbers, **how):
        if len(made) >= 3 * most:
            raise KeyboardInterrupt
        made.extend(numbers.tolist())
        return sample(numbers, **how)

    monkeypatch.setattr(generator, "sample_latents", noting)
    return made


def test_they_are_those_of_one_call_and_leave_nothing(generator, tmp_path):
    with made_latents(generator, HOW, ALONE) as latents:
        assert torch.equal(latents, wanted(generator))
    assert not list((tmp_path / "stores").glob("generated-*"))


def test_a_score_that_was_stopped_goes_on(generator, monkeypatch):
    whole = wanted(generator)
    with monkeypatch.context() as patch:
        first = counted(generator, patch, most=2)
        with pytest.raises(KeyboardInterrupt), made_latents(generator, HOW, ALONE):
            pass
    with monkeypatch.context() as patch:
        again = counted(generator, patch)
        with pytest.raises(RuntimeError, match="measuring"), made_latents(generator, HOW, ALONE):
            raise RuntimeError("measuring was stopped, too")
        assert sorted(set(first) | set(again)) == list(range(COUNT))
        assert not set(again) >= set(first), "what was safe was made again"
        del again[:]
        with made_latents(generator, HOW, ALONE) as latents:
            assert torch.equal(latents, whole)
        assert not again


def test_two_processes_make_it_together(generator, monkeypatch):
    """One that is alone at work makes what the other has not begun."""
    whole = wanted(generator)
    monkeypatch.setattr("latentsmith.sampling.many.dist.barrier", lambda: None)
    monkeypatch.setattr(Team, "on_main", lambda self, work: None)
    for rank in (1, 0):
        team = Team(None, torch.device("cpu"), rank, 2)
        made = counted(generator, monkeypatch)
        with made_latents(generator, HOW, team) as latents:
            assert torch.equal(latents, whole[5:] if rank else whole[:5])
        assert bool(made) == (rank == 1)


def test_other_weights_make_others(generator):
    with pytest.raises(RuntimeError), made_latents(generator, HOW, ALONE):
        raise RuntimeError("stopped: the first one's latents stay")
    with torch.no_grad():
        for parameter in generator.backbone.parameters():
            parameter.mul_(1.5)
    with made_latents(generator, HOW, ALONE) as latents:
        assert torch.equal(latents, wanted(generator))


def test_numbers_and_conditions_belong_to_their_sample(generator):
    numbers = torch.arange(COUNT).flip(0)
    with made_latents(generator, HOW, ALONE, numbers=numbers) as latents:
        torch.testing.assert_close(latents.flip(0), wanted(generator))


def test_what_is_not_finite_is_nan_and_no_error(generator, monkeypatch):
    sample = generator.sample_latents

    def broken(numbers, **how):
        found = sample(numbers, **how)
        found[numbers == 4] = torch.inf
        return found

    monkeypatch.setattr(generator, "sample_latents", broken)
    with made_latents(generator, HOW, ALONE) as latents:
        finite = latents.flatten(1).isfinite().all(1)
        assert latents[4].isnan().all() and int(finite.sum()) == COUNT - 1
