"""A denoising network told classes, or nothing, as a diffusers model."""

from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from latentsmith.backbones.base import BACKBONES
from latentsmith.backbones.blocks.weights import Constant
from latentsmith.backbones.dit import DiTConfig, SiTConfig
from latentsmith.backbones.skip_mlp import SkipMLPConfig

KINDS = (SiTConfig, DiTConfig, SkipMLPConfig)
"""What is carried along."""


class LatentsmithBackbone(ModelMixin, ConfigMixin):
    """Noisy latents and time to a prediction, in the parametrization ``settings["predicts"]``.

    Args:
        settings: of the network, with its ``kind``.
        latent_shape: [C, H, W].
        classes: how many it is told of; None: none.
    """

    @register_to_config
    def __init__(
        self, settings: dict[str, Any], latent_shape: list[int], classes: int | None = None
    ):
        super().__init__()
        channels, rows, columns = latent_shape
        config: Any = BACKBONES[settings["kind"]].config(**settings)
        self.network = config.build((channels, rows, columns), classes)
        for module in self.modules():
            if isinstance(module, Constant):
                # made anew: from_pretrained(torch_dtype=…) had half precision as the default
                module._apply(lambda values: values)

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        """The prediction [B, C, H, W].

        Args:
            hidden_states: noisy latents [B, C, H, W], normalized.
            timestep: [B] in [0, 1]: 0 is data, 1 noise.
            class_labels: int64 [B]; ``classes`` says "none of them".
        """
        condition = {} if class_labels is None else {"label": class_labels}
        return self.network(hidden_states, timestep, condition).sample
