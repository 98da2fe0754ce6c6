"""``engine=ray``: tasks of a local cluster make the store that one process makes."""

import sys

import pytest
import torch

from latentsmith.config.compose import compose
from latentsmith.errors import UserError
from latentsmith.stores.base import open_store
from latentsmith.utils.on_ray import RayConfig, on_ray

WORDS = [
    "what=vectors", "data=digits", "split=val", "encoder=pixel_pca", "encoder.components=4",
    "transform.resolution=8", "transform.channels=1", "batch_size=16",
]  # fmt: skip


def cache(out, *words):
    return compose("cache", [*WORDS, *words]).make(out)


@pytest.fixture(scope="module")
def ray():
    """A cluster of this machine, of two workers, shared by the tests."""
    found = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    try:
        found.init(
            address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20,
            log_to_driver=False, logging_level="ERROR",
        )  # fmt: skip
    except Exception as error:
        pytest.skip(f"Ray does not start here: {error}")
    yield found
    found.shutdown()


@pytest.mark.timeout(240)
def test_the_store_is_that_of_one_process(ray, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path / "cache"))
    alone = cache(tmp_path / "alone")
    many = cache(tmp_path / "many", "engine=ray", "ray.workers=2")
    assert many.manifest == alone.manifest and list(many.keys) == list(alone.keys)
    rows = torch.arange(len(alone))
    assert torch.equal(many.gather(rows)["vector"], alone.gather(rows)["vector"])
    assert open_store(tmp_path / "many").manifest.fingerprint() == alone.manifest.fingerprint()


@pytest.mark.timeout(240)
def test_a_tasks_error_is_told_as_it_is(ray):
    def fail(rank, workers):  # in here: sent as it is, not by the name of a module of tests
        raise UserError(f"task {rank} of {workers} has no more paper")

    with pytest.raises(UserError, match=r"^task \d of 2 has no more paper$"):
        on_ray(fail, RayConfig(workers=2), "failing")
    with pytest.raises(UserError, match=r"each task asks for 4 GPUs \(ray.gpus\), and .* has 0"):
        on_ray(fail, RayConfig(gpus=4), "greedy")


def test_without_ray_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'latentsmith\[ray\]'"):
        on_ray(lambda rank, workers: None, RayConfig(), "nothing")
