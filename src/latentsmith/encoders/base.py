"""What every frozen encoder promises."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from latentsmith.config.schema import schema
from latentsmith.registry import Registry

ENCODERS = Registry("encoder", "latentsmith.encoders")

Output = Literal["pooled", "cls", "tokens"]


@dataclass
class EncoderOutput:
    """What an encoder saw in a batch of images.

    ``pooled`` float32 [B, D] (mean over tokens or the network's own pooling); ``cls`` [B, D] or
    None; ``tokens`` [B, H*W, D] in raster order (row by row) or None.
    """

    pooled: Tensor
    cls: Tensor | None = None
    tokens: Tensor | None = None


@schema
class EncoderConfig:
    """Base of all encoder configs. Subclasses add ``kind: Literal[...]`` and `build`."""

    kind: str

    def build(self) -> "Encoder":
        """Load the frozen encoder. Raises UserError when its weights are not at hand."""
        raise TypeError(f"{type(self).__name__} has no build()")


class Encoder(nn.Module):
    """A frozen network from images to vectors. Callers pass images in [0, 1], any size.

    Attributes:
        name: registry kind.
        dim: width D of the vectors.
        grid: (rows, columns) of the token grid, or None without tokens.
        output: which output `vector` gives.
    """

    name: str
    dim: int
    grid: tuple[int, int] | None = None
    output: Output = "pooled"
    needs_fit: bool = False
    """True while it must still be fitted on data (pixel PCA)."""

    def preprocess(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] → what the network eats (resized, normalised, channels fixed)."""
        raise TypeError(f"{type(self).__name__} has no preprocess()")

    def forward(self, images: Tensor) -> EncoderOutput:
        """[B, C, H, W] in [0, 1] → outputs, float32, no gradient."""
        raise TypeError(f"{type(self).__name__} has no forward()")

    @torch.no_grad()
    def vector(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] → [B, D]: the configured output, float32."""
        out = self(images)
        value = {"pooled": out.pooled, "cls": out.cls, "tokens": out.tokens}[self.output]
        assert value is not None  # build() refuses an output the encoder does not have
        return value.flatten(1).float()

    def digest(self) -> str:
        """Hex digest of the weights (or of the fitted state)."""
        raise TypeError(f"{type(self).__name__} has no digest()")

    def fingerprint(self) -> dict[str, object]:
        """What a cache made with this encoder depends on: kind, weights digest, preprocessing,
        output. JSON-able."""
        raise TypeError(f"{type(self).__name__} has no fingerprint()")
