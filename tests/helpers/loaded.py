"""Imported by the server of `helpers.forks`: what the processes it forks have need of."""

import accelerate  # noqa: F401
import pytest  # noqa: F401
import torch.distributed
import torch.utils.tensorboard  # noqa: F401
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: F401
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: F401

import latentsmith.training.loop  # noqa: F401
from helpers.orphans import end_with_parent
from latentsmith.losses.base import LOSSES
from latentsmith.metrics.registry import METRICS
from latentsmith.recipes.base import RECIPES

end_with_parent()
for registry in (LOSSES, METRICS, RECIPES):
    registry.names()
