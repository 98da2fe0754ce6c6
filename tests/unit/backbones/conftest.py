"""What the tests of the U-Net share."""

import pytest

from latentsmith.backbones.sd_unet import SDUNetConfig


@pytest.fixture
def network(tiny_pipelines):
    """A tiny Stable Diffusion U-Net with LoRA in its middle."""
    return SDUNetConfig(source=tiny_pipelines("sd15")).build()
