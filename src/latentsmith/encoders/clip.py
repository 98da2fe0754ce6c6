"""CLIP's image tower (Radford et al. 2021)."""

from typing import Any, Literal

import torch
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.transforms import resize
from latentsmith.encoders.base import ENCODERS, Encoder, EncoderConfig, EncoderOutput, to_rgb
from latentsmith.encoders.hub import check_multiple, load_config, load_model
from latentsmith.errors import UserError
from latentsmith.utils.digest import state_digest
from latentsmith.utils.needs import Need, hub_weights

EXAMPLE = "openai/clip-vit-base-patch32"
# CLIP's own, not ImageNet's.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@ENCODERS.register("clip", help="CLIP image tower; hub id or folder")
@schema
class ClipConfig(EncoderConfig):
    """CLIP's image encoder: distances follow what captions mention."""

    gives_tokens = True

    kind: Literal["clip"] = "clip"
    source: str = EXAMPLE
    """Hub id or folder of a CLIP model or of its image tower alone."""
    resolution: int | None = None
    """Square the images are resized to; left out: the model's own (224, some 336). Another
    multiple of its patch size works by interpolating the position embeddings."""
    projection: bool = True
    """``pooled`` is the embedding shared with text; false: before the projection."""
    output: Literal["pooled", "cls", "tokens"] = "pooled"
    """``pooled``: the image embedding; ``cls``: the class token after the last block (no norm, no
    projection); ``tokens``: the patch tokens after the last block."""

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        return [hub_weights(self.source)]

    def build(self) -> "Clip":
        """Load the weights. Raises UserError when they cannot be had or do not fit."""
        from transformers import CLIPVisionModel, CLIPVisionModelWithProjection

        kinds = ("clip", "clip_vision_model")
        config = load_config(self.source, kinds=kinds, example=EXAMPLE)
        vision = getattr(config, "vision_config", config)
        vision.projection_dim = config.projection_dim  # a whole model states it once, outside
        resolution = self.resolution or vision.image_size
        wrong = check_multiple(resolution, vision.patch_size, what=f"{self.source!r}:")
        if wrong:
            raise UserError(wrong)
        model_class = CLIPVisionModelWithProjection if self.projection else CLIPVisionModel
        model = load_model(model_class, self.source, example=EXAMPLE, config=vision)
        return Clip(model, resolution, self)

    def empty(self, architecture: dict[str, Any]) -> "Clip":
        """See `EncoderConfig.empty`."""
        from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

        model_class = CLIPVisionModelWithProjection if self.projection else CLIPVisionModel
        config = CLIPVisionConfig.from_dict(architecture)
        side: Any = self.resolution or config.image_size
        return Clip(model_class(config), side, self)


class Clip(Encoder):
    """Frozen CLIP image tower; see `ClipConfig`."""

    name = "clip"

    def __init__(self, model: Any, resolution: int, config: ClipConfig):
        super().__init__()
        self.output = config.output
        self.projection = config.projection
        self.resolution = resolution
        self.model = model
        projected = config.projection and config.output == "pooled"
        self.dim = model.config.projection_dim if projected else model.config.hidden_size
        side = resolution // model.config.patch_size
        self.grid = (side, side)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.freeze()

    def preprocess(self, images: Tensor) -> Tensor:
        """Bicubic antialiased resize (non-square images are squeezed), gray repeated, CLIP's mean
        and deviation."""
        images = to_rgb(resize(images, (self.resolution, self.resolution)))
        return (images - self.mean) / self.std  # type: ignore[operator]

    def compute(self, images: Tensor) -> EncoderOutput:
        """[B, 1 or 3, H, W] in [0, 1] → pooled [B, D_p], cls [B, D], tokens [B, grid², D]."""
        out = self.model(
            pixel_values=self.preprocess(images),
            interpolate_pos_encoding=self.resolution != self.model.config.image_size,
        )
        hidden = out.last_hidden_state.float()
        pooled = out.image_embeds if self.projection else out.pooler_output
        return EncoderOutput(pooled=pooled.float(), cls=hidden[:, 0], tokens=hidden[:, 1:])

    def architecture(self) -> dict[str, Any]:
        """The model's transformers config."""
        return self.model.config.to_diff_dict()

    def digest(self) -> str:
        """Of the weights in float32."""
        return state_digest(self.model.state_dict())

    def fingerprint(self) -> dict[str, object]:
        """See `Encoder.fingerprint`."""
        return {"projection": self.projection} | self.described(list(MEAN), list(STD))
