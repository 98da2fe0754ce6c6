"""Small generators with random weights."""

import pytest

from helpers.tiny_text_generator import tiny_text_generator


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """It is told texts."""
    return tiny_text_generator(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """It knows three classes."""
    folder = tmp_path_factory.mktemp("classes")
    return tiny_text_generator(folder, classes=["a", "b", "c"])
