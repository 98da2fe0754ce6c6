"""Its place makes pytest put this folder on the path: tests write ``from helpers.… import …``."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before it is imported: no test waits for the hub

import pytest
import torch

from latentsmith.recipes.base import RECIPES
from latentsmith.registry import Entry


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Lend the recipe ``toy`` (tests/toy) to one test, in an empty working folder."""
    from toy.toy_recipe import ToyConfig

    RECIPES.names()  # loads the real ones first
    monkeypatch.setitem(RECIPES._entries, "toy", Entry("toy", ToyConfig, "a recipe for tests"))
    monkeypatch.chdir(tmp_path)
    return ToyConfig


@pytest.fixture(autouse=True)
def one_thread():
    """Sums depend on the number of threads in their last bits, and tests compare runs of this
    process with runs of fresh ones bit for bit; whatever a test before has set is undone."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def one_thread_from_the_start():
    """Also for what fixtures of the session make before the first test."""
    torch.set_num_threads(1)


@pytest.fixture
def gpu():
    """The machine's GPU, or one that is not there (`helpers.pretend_cuda`): what the CPU cannot
    tell apart, tensors of two devices, is refused by both."""
    from helpers.pretend_cuda import pretend_cuda

    if torch.cuda.is_available():
        yield torch.device("cuda", 0)
    else:
        with pretend_cuda():
            yield torch.device("cuda", 0)


@pytest.fixture(scope="session")
def tiny_pipelines(tmp_path_factory):
    """``tiny_pipelines("sd15")``: folder of a tiny Stable Diffusion pipeline (sd15, sd21, sdxl),
    made once; see `helpers.tiny_sd`. Do not write into it."""
    from functools import cache

    from helpers.tiny_sd import tiny_sd

    root = tmp_path_factory.mktemp("pipelines")
    return cache(lambda kind: tiny_sd(root / kind, kind))
