"""Runs to explore, made once."""

import pytest

from helpers.explored import field_run, image_run, text_run


@pytest.fixture(scope="session")
def explored(tmp_path_factory):
    """Run folders by "images", "fields", "texts". Do not write into them."""
    folder = tmp_path_factory.mktemp("explored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTSMITH_CACHE", str(folder / "cache"))
        yield {
            "images": image_run(folder),
            "fields": field_run(folder),
            "texts": text_run(folder),
        }
