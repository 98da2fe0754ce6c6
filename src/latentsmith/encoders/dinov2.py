"""DINOv2 (Oquab et al. 2023), with or without registers (Darcet et al. 2023)."""

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

EXAMPLE = "facebook/dinov2-base"
# ImageNet's, which DINOv2 was trained with. (VA-VAE fed it [-1, 1], its authors' "small bug".)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@ENCODERS.register("dinov2", help="DINOv2 S/B/L/g, with or without registers; hub id or folder")
@schema
class DinoV2Config(EncoderConfig):
    """DINOv2: self-supervised ViT whose distances follow semantics."""

    gives_tokens = True

    kind: Literal["dinov2"] = "dinov2"
    source: str = EXAMPLE
    """Hub id (``facebook/dinov2-{small,base,large,giant}``, ``facebook/dinov2-with-registers-…``)
    or folder."""
    resolution: int = 224
    """Images are resized to this square, a multiple of the patch size: 224 gives 16 x 16 tokens,
    518 (as trained) 37 x 37. Position embeddings are interpolated."""
    patch_size: int = 14
    """Patch size of the source, 14 in all published models; checked when it is loaded."""
    output: Literal["cls", "pooled", "tokens"] = "cls"
    """``cls``: class token [D]; ``pooled``: mean over patch tokens; ``tokens``: all of them."""

    def __post_init__(self) -> None:
        wrong = check_multiple(self.resolution, self.patch_size, what="DINOv2's")
        if wrong:
            raise ValueError(wrong)

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        return [hub_weights(self.source)]

    def build(self) -> "DinoV2":
        """Load the weights. Raises UserError when they cannot be had or do not fit."""
        classes = _classes()
        config = load_config(self.source, kinds=tuple(classes), example=EXAMPLE)
        if config.patch_size != self.patch_size:
            raise UserError(
                f"{self.source!r} has patch size {config.patch_size}, the setting says "
                f"{self.patch_size}: set patch_size={config.patch_size}"
            )
        model = load_model(classes[config.model_type], self.source, example=EXAMPLE)
        return DinoV2(model, config=self)

    def empty(self, architecture: dict[str, Any]) -> "DinoV2":
        """See `EncoderConfig.empty`."""
        model_class = _classes()[architecture["model_type"]]
        return DinoV2(model_class(model_class.config_class.from_dict(architecture)), config=self)


def _classes() -> dict[str, Any]:
    from transformers import Dinov2Model, Dinov2WithRegistersModel

    return {"dinov2": Dinov2Model, "dinov2_with_registers": Dinov2WithRegistersModel}


class DinoV2(Encoder):
    """Frozen DINOv2; see `DinoV2Config`."""

    name = "dinov2"

    def __init__(self, model: Any, *, config: DinoV2Config):
        super().__init__()
        self.output = config.output
        self.resolution = config.resolution
        self.source = config.source
        self.model = model
        self.dim = model.config.hidden_size
        side = config.resolution // config.patch_size
        self.grid = (side, side)
        # The tokens before the patches: the class token, then registers where there are any.
        self.prefix = 1 + getattr(model.config, "num_register_tokens", 0)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.freeze()

    def preprocess(self, images: Tensor) -> Tensor:
        """Bicubic antialiased resize (non-square images are squeezed), gray repeated, ImageNet
        mean and deviation."""
        images = to_rgb(resize(images, (self.resolution, self.resolution)))
        return (images - self.mean) / self.std  # type: ignore[operator]

    def compute(self, images: Tensor) -> EncoderOutput:
        """[B, 1 or 3, H, W] in [0, 1] → cls [B, D], pooled [B, D], tokens [B, grid², D], all
        after the final layer norm."""
        hidden = self.model(pixel_values=self.preprocess(images)).last_hidden_state.float()
        tokens = hidden[:, self.prefix :]
        return EncoderOutput(pooled=tokens.mean(1), cls=hidden[:, 0], tokens=tokens)

    def architecture(self) -> dict[str, Any]:
        """The model's transformers config."""
        return self.model.config.to_diff_dict()

    def digest(self) -> str:
        """Of the weights in float32."""
        return state_digest(self.model.state_dict())

    def fingerprint(self) -> dict[str, object]:
        """See `Encoder.fingerprint`."""
        return self.described(list(MEAN), list(STD))
