"""What every frozen encoder promises."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.registry import Registry

ENCODERS = Registry("encoder", "latentsmith.encoders")

Output = Literal["pooled", "cls", "tokens"]
Scale = Literal["raw", "unit", "standardized"]


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

    gives_tokens: ClassVar[bool] = False
    """Whether the encoder has patch tokens on a grid."""

    kind: str
    scale: Scale = "raw"
    """Vectors as points of a reference space: ``raw``; ``unit`` (divided by their length, so that
    Euclidean distance follows the cosine, the usual similarity of semantic features); or
    ``standardized`` (each dimension to mean 0, deviation 1 over training images). Feature
    distances (Fréchet, path length) always use raw vectors."""

    def build(self) -> "Encoder":
        """Load the frozen encoder. Raises UserError when its weights are not at hand."""
        raise TypeError(f"{type(self).__name__} has no build()")

    def empty(self, architecture: dict[str, Any]) -> "Encoder":
        """The network with weights of no meaning, to be filled from a file that has them all.

        Args:
            architecture: what `Encoder.architecture` of the saved one gave.
        """
        raise TypeError(f"{type(self).__name__} has no empty()")


def to_rgb(images: Tensor) -> Tensor:
    """Gray [B, 1, H, W] repeated to three channels; [B, 3, H, W] as it is.

    Raises:
        UserError: another number of channels.
    """
    if images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1)
    if images.shape[1] != 3:
        raise UserError(f"encoders take 1 or 3 image channels, these images have {images.shape[1]}")
    return images


class Encoder(nn.Module):
    """A frozen network from images to vectors. Callers pass images in [0, 1], any size.

    Attributes:
        name: registry kind.
        dim: width D of the vectors.
        grid: (rows, columns) of the token grid, or None without tokens.
        output: which output `vector` gives.
        resolution: side of the square that images are resized to, where it is one.
    """

    name: str
    dim: int
    grid: tuple[int, int] | None = None
    output: Output = "pooled"
    resolution: int
    needs_fit: bool = False
    """True while it must still be fitted on data (pixel PCA)."""

    def freeze(self) -> None:
        """Evaluation mode and no gradients, for good: call at the end of ``__init__``."""
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> "Encoder":
        """Does nothing: a task that holds an encoder puts *itself* in training mode, and the
        reference must not start to drop or to normalise by batch."""
        return self

    def preprocess(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] → what the network eats (resized, normalised, channels fixed)."""
        raise TypeError(f"{type(self).__name__} has no preprocess()")

    def forward(self, images: Tensor) -> EncoderOutput:
        """[B, C, H, W] in [0, 1] → outputs, float32, no gradient."""
        with torch.no_grad():
            return self.compute(images)

    def compute(self, images: Tensor) -> EncoderOutput:
        """`forward` with its graph, for weights that train (`unfreeze`) and for images that have
        a gradient."""
        raise TypeError(f"{type(self).__name__} has no compute()")

    def unfreeze(self, names: str = "") -> list[nn.Parameter]:
        """Let weights train, and return them. The encoder stays in evaluation mode: nothing is
        dropped, and what batch norms learned stays as it is.

        Args:
            names: regular expression that a parameter's name must contain; "" is all of them.

        Raises:
            UserError: no parameter has such a name.
        """
        known = dict(self.named_parameters())
        chosen = [parameter for name, parameter in known.items() if re.search(names, name)]
        if not chosen:
            some = ", ".join(list(known)[:: max(1, len(known) // 4)][:4])
            raise UserError(
                f"no weight of encoder {self.name} has a name with {names!r}: they are called "
                f"{some} … (an empty expression trains all)"
            )
        for parameter in chosen:
            parameter.requires_grad_(True)
        return chosen

    def architecture(self) -> dict[str, Any]:
        """What `EncoderConfig.empty` needs besides the settings to build this network without its
        weights; JSON-able. Raises UserError for encoders that have no such."""
        raise UserError(f"encoder {self.name} cannot be trained and saved within an autoencoder")

    @torch.no_grad()
    def vector(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] → [B, D]: the configured output, float32."""
        out = self(images)
        value = {"pooled": out.pooled, "cls": out.cls, "tokens": out.tokens}[self.output]
        assert value is not None  # build() refuses an output the encoder does not have
        return value.flatten(1).float()

    def check_tokens(self) -> None:
        """Raises UserError when the encoder has no tokens."""
        if self.grid is None:
            raise UserError(
                f"encoder {self.name} has no tokens, so it says nothing of single pixels: choose "
                "one with tokens, as dinov2, clip, efficientnet_lite0 or denoiser"
            )

    def maps(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] → tokens as a map [B, D, rows, columns]: a view of them.

        Raises:
            UserError: the encoder has no tokens.
        """
        self.check_tokens()
        tokens, grid = self(images).tokens, self.grid
        assert tokens is not None and grid is not None  # check_tokens
        return tokens.mT.unflatten(2, grid)

    def dense(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Features of every pixel: tokens as a map, resized (bilinear) to [B, D, *size].

        Raises:
            UserError: the encoder has no tokens.
        """
        return F.interpolate(self.maps(images), size, mode="bilinear")

    def digest(self) -> str:
        """Hex digest of the weights (or of the fitted state)."""
        raise TypeError(f"{type(self).__name__} has no digest()")

    def fingerprint(self) -> dict[str, object]:
        """What a cache made with this encoder depends on: kind, weights digest, preprocessing,
        output. JSON-able."""
        raise TypeError(f"{type(self).__name__} has no fingerprint()")

    def described(self, mean: object, std: object) -> dict[str, object]:
        """The fingerprint of an encoder that resizes images to ``self.resolution`` and normalizes
        them by ``mean`` and ``std``."""
        return {
            "kind": self.name,
            "weights": self.digest(),
            "resolution": self.resolution,
            "mean": mean,
            "std": std,
            "resize": "bicubic-antialias",
            "output": self.output,
        }
