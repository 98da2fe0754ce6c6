"""An autoencoder around a vision encoder, as a diffusers model used as ``AutoencoderKL`` is."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.autoencoders.pixel_decoder import PixelDecoder
from latentsmith.autoencoders.projectors.base import moments_of
from latentsmith.autoencoders.projectors.mlp import ResidualBlock, _layer
from latentsmith.autoencoders.projectors.transformer import Blocks
from latentsmith.backbones.blocks.weights import Constant
from latentsmith.data.transforms import resize
from latentsmith.encoders.base import to_rgb
from latentsmith.encoders.same_conv import SameConv2d


class LiteBlock(nn.Module):
    """Expand, filter each channel, project: a mobile inverted bottleneck (Sandler et al. 2018)."""

    def __init__(self, a: int, b: int, kernel: int, stride: int, ratio: int):
        super().__init__()
        inner = a * ratio
        self._expand_conv = SameConv2d(a, inner, 1) if ratio > 1 else nn.Identity()
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._project_conv = SameConv2d(inner, b, 1)
        self.expands, self.skips = ratio > 1, stride == 1 and a == b

    def forward(self, x: Tensor) -> Tensor:
        """[B, a, H, W] → [B, b, ⌈H / stride⌉, ⌈W / stride⌉]."""
        y = F.relu6(self._expand_conv(x)) if self.expands else x
        y = self._project_conv(F.relu6(self._depthwise_conv(y)))
        return x + y if self.skips else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier, batch norms folded into the convolutions.

    Args:
        stride: pixels per token along each side; less than 32: the last blocks of that size, and no
            head.
    """

    #        repeats, kernel, stride, ratio, channels
    STAGES = (
        (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
    )  # fmt: skip

    def __init__(self, stride: int = 32):
        super().__init__()
        self._conv_stem, reached = SameConv2d(3, 32, 3, 2), 2
        self._blocks, a = nn.ModuleList(), 32
        for repeats, kernel, step, ratio, b in self.STAGES:
            reached *= step
            for n in range(repeats if reached <= stride else 0):
                self._blocks.append(LiteBlock(a, b, kernel, 1 if n else step, ratio))
                a = b
        self._conv_head = SameConv2d(a, 1280, 1) if stride == 32 else None

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] → tokens [B, N, d]."""
        x = F.relu6(self._conv_stem(pixels))
        for block in self._blocks:
            x = block(x)
        return (x if self._conv_head is None else F.relu6(self._conv_head(x))).flatten(2).mT


class VisionEncoder(nn.Module):
    """Patch tokens of an image, from a network with its own preprocessing.

    Args:
        kind: dinov2, clip, siglip or efficientnet_lite0.
        resolution: images are resized to this square.
        mean, std: of each colour, taken off and divided by.
        architecture: settings of the network, of its transformers config.
        projection: of CLIP, whether the network has one.
        stride: of EfficientNet-Lite0, which of its features.
    """

    def __init__(
        self,
        kind: str,
        resolution: int,
        mean: list[float],
        std: list[float],
        architecture: dict[str, Any],
        projection: bool = False,
        stride: int = 32,
    ):
        super().__init__()
        self.kind, self.resolution, self.colours = kind, resolution, (mean, std)
        if kind == "efficientnet_lite0":
            self.net = EfficientNetLite0(stride)
        else:
            self.model = _transformers_model(kind, architecture, projection)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 1 or 3, H, W] in [0, 1] → tokens [B, N, d]."""
        images = to_rgb(resize(images.float(), (self.resolution, self.resolution)))
        mean, std = (images.new_tensor(c).view(1, 3, 1, 1) for c in self.colours)
        pixels = ((images - mean) / std).to(next(self.parameters()).dtype)
        if self.kind == "efficientnet_lite0":
            return self.net(pixels)
        if self.kind == "dinov2":
            hidden = self.model(pixel_values=pixels).last_hidden_state
            return hidden[:, 1 + getattr(self.model.config, "num_register_tokens", 0) :]
        other = self.resolution != self.model.config.image_size
        hidden = self.model(pixel_values=pixels, interpolate_pos_encoding=other).last_hidden_state
        return hidden[:, 1:] if self.kind == "clip" else hidden


def _transformers_model(kind: str, architecture: dict[str, Any], projection: bool) -> Any:
    import transformers

    name = {
        "dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters",
        "clip_vision_model": "CLIPVision", "siglip_vision_model": "SiglipVision",
    }[architecture["model_type"]]  # fmt: skip
    config = getattr(transformers, f"{name}Config").from_dict(architecture)
    ending = "ModelWithProjection" if projection else "Model"
    return getattr(transformers, name + ending)(config)


def projector_of(
    kind: str, settings: dict[str, Any], dim: int, latent: int, grid: tuple[int, int]
) -> tuple[nn.Module, nn.Module]:
    """(features [B, N, dim] → moments [B, N, 2 latent], latents [B, N, latent] → features)."""
    if kind == "identity":
        return nn.Identity(), nn.Identity()
    if kind == "transformer":
        shape = {"width": settings["width"] or dim}
        shape |= {name: settings[name] for name in ("depth", "heads")}
        return Blocks(dim, 2 * latent, grid, **shape), Blocks(latent, dim, grid, **shape)
    wide, narrow = settings["widths"]
    there = [*_layer(dim, wide), *_layer(wide, narrow), nn.Linear(narrow, 2 * latent)]
    back = [*_layer(latent, narrow), *_layer(narrow, wide), nn.Linear(wide, dim)]
    back += [ResidualBlock(dim) for _ in range(settings["blocks"])]
    return nn.Sequential(*there), nn.Sequential(*back)


class LatentGaussian:
    """Diagonal Gaussian over raw latents [B, C, h, w].

    Args:
        mean, logvar: its mean and the logarithm of its variance.
    """

    def __init__(self, mean: Tensor, logvar: Tensor):
        self.mean, self.logvar = mean, logvar

    def mode(self) -> Tensor:
        """The most likely latents."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Latents drawn from it."""
        device = None if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device)
        return self.mean + (0.5 * self.logvar).exp() * noise.to(self.mean)


class SemanticAutoencoderModel(ModelMixin, ConfigMixin):
    """Images in [-1, 1] to latents and back, called as diffusers' ``AutoencoderKL`` is.

    Args:
        encoder_settings: arguments of `VisionEncoder`.
        projector_settings: kind and settings, for `projector_of`.
        decoder_settings: width, levels, blocks, groups of the pixel decoder.
        features: width d of the encoder's tokens.
        grid: rows and columns of tokens.
        latent_channels: C of the latents.
        in_channels: of images.
        scaling_factor, latents_mean, latents_std: normalized latents z are
            ``z * latents_std / scaling_factor + latents_mean``.
    """

    feature_mean: Tensor
    feature_std: Tensor

    @register_to_config
    def __init__(
        self,
        encoder_settings: dict[str, Any],
        projector_settings: dict[str, Any],
        decoder_settings: dict[str, Any],
        features: int,
        grid: list[int],
        latent_channels: int,
        in_channels: int = 3,
        scaling_factor: float = 1.0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ):
        super().__init__()
        rows, columns = grid
        shape: Any = SimpleNamespace(**decoder_settings)
        self.grid = rows, columns
        self.encoder = VisionEncoder(**encoder_settings)
        kind = projector_settings["kind"]
        self.projector, self.reader = projector_of(
            kind, projector_settings, features, latent_channels, self.grid
        )
        self.variational = kind != "identity"
        self.pixels = PixelDecoder(shape, latent_channels, in_channels)
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_std", torch.ones(features))
        for module in self.modules():
            if isinstance(module, Constant):
                # made anew: from_pretrained(torch_dtype=…) had half precision as the default
                module._apply(lambda values: values)

    @apply_forward_hook  # offloading moves the network before it too
    def encode(self, x: Tensor) -> SimpleNamespace:
        """Images [B, channels, H, W] in [-1, 1] → ``latent_dist``, a `LatentGaussian`."""
        tokens = (self.encoder((x + 1) / 2) - self.feature_mean) / self.feature_std
        kind: Any = SimpleNamespace(variational=self.variational)
        mean, logvar = (
            moments.mT.unflatten(2, self.grid).contiguous()
            for moments in moments_of(kind, self.projector(tokens))
        )
        return SimpleNamespace(latent_dist=LatentGaussian(mean, logvar))

    @apply_forward_hook
    def decode(self, z: Tensor) -> SimpleNamespace:
        """Raw latents [B, C, h, w] → ``sample``, images [B, channels, f h, f w], about [-1, 1]."""
        return SimpleNamespace(sample=self.pixels(z.to(self.dtype)).float())

    @apply_forward_hook
    def decode_features(self, z: Tensor) -> Tensor:
        """Raw latents [B, C, h, w] → the encoder's tokens, standardized [B, N, d]."""
        return self.reader(z.to(self.dtype).flatten(2).mT).float()

    def forward(self, x: Tensor) -> SimpleNamespace:
        """Images [B, channels, H, W] in [-1, 1], there and back."""
        return self.decode(self.encode(x).latent_dist.mode())
