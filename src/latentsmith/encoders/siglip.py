"""SigLIP's image tower (Zhai et al. 2023), first and second generation at a fixed resolution."""

from typing import Any, Literal

from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.transforms import resize
from latentsmith.encoders.base import ENCODERS, Encoder, EncoderConfig, EncoderOutput, to_rgb
from latentsmith.encoders.hub import check_multiple, load_config, load_model
from latentsmith.errors import UserError
from latentsmith.utils.digest import state_digest
from latentsmith.utils.needs import Need, hub_weights

EXAMPLE = "google/siglip2-base-patch16-256"
# [0, 1] to [-1, 1]: SigLIP's image processors.
MEAN = STD = 0.5


@ENCODERS.register("siglip", help="SigLIP or SigLIP 2 image tower; hub id or folder")
@schema
class SiglipConfig(EncoderConfig):
    """SigLIP: trained on captions pair by pair; no class token, patch tokens of good use."""

    gives_tokens = True

    kind: Literal["siglip"] = "siglip"
    source: str = EXAMPLE
    """Hub id or folder of a SigLIP model or of its image tower alone."""
    resolution: int | None = None
    """Square the images are resized to; left out: the model's own. Another multiple of its patch
    size works by interpolating the position embeddings."""
    output: Literal["pooled", "tokens"] = "pooled"
    """``pooled``: the attention-pooled embedding shared with text; ``tokens``: patch tokens after
    the last layer norm."""

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        return [hub_weights(self.source)]

    def build(self) -> "Siglip":
        """Load the weights. Raises UserError when they cannot be had or do not fit."""
        from transformers import SiglipVisionModel

        kinds = ("siglip", "siglip_vision_model")
        config = load_config(self.source, kinds=kinds, example=EXAMPLE)
        vision = getattr(config, "vision_config", config)
        resolution = self.resolution or vision.image_size
        wrong = check_multiple(resolution, vision.patch_size, what=f"{self.source!r}:")
        if wrong:
            raise UserError(wrong)
        model = load_model(SiglipVisionModel, self.source, example=EXAMPLE, config=vision)
        return Siglip(model, resolution, self)

    def empty(self, architecture: dict[str, Any]) -> "Siglip":
        """See `EncoderConfig.empty`."""
        from transformers import SiglipVisionConfig, SiglipVisionModel

        config = SiglipVisionConfig.from_dict(architecture)
        side: Any = self.resolution or config.image_size
        return Siglip(SiglipVisionModel(config), side, self)


class Siglip(Encoder):
    """Frozen SigLIP image tower; see `SiglipConfig`."""

    name = "siglip"

    def __init__(self, model: Any, resolution: int, config: SiglipConfig):
        super().__init__()
        self.output, self.resolution, self.model = config.output, resolution, model
        self.dim = model.config.hidden_size
        side = resolution // model.config.patch_size
        self.grid = (side, side)
        self.freeze()

    def preprocess(self, images: Tensor) -> Tensor:
        """Bicubic antialiased resize (non-square images are squeezed), gray repeated, to
        [-1, 1]."""
        images = to_rgb(resize(images, (self.resolution, self.resolution)))
        return (images - MEAN) / STD

    def compute(self, images: Tensor) -> EncoderOutput:
        """[B, 1 or 3, H, W] in [0, 1] → pooled [B, D], tokens [B, grid², D]."""
        out = self.model(
            pixel_values=self.preprocess(images),
            interpolate_pos_encoding=self.resolution != self.model.config.image_size,
        )
        return EncoderOutput(pooled=out.pooler_output.float(), tokens=out.last_hidden_state.float())

    def architecture(self) -> dict[str, Any]:
        """The model's transformers config."""
        return self.model.config.to_diff_dict()

    def digest(self) -> str:
        """Of the weights in float32."""
        return state_digest(self.model.state_dict())

    def fingerprint(self) -> dict[str, object]:
        """See `Encoder.fingerprint`."""
        return self.described(MEAN, STD)
