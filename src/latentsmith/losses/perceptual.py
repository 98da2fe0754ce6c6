"""LPIPS (Zhang et al. 2018): own VGG16 / AlexNet trunks, published linear weights.

The trunks' layers carry torchvision's names (``features.<i>.weight``), so its ImageNet files
load; torchvision itself is not needed.
"""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from latentsmith.errors import UserError
from latentsmith.utils.digest import state_digest
from latentsmith.utils.needs import Need, hub_weights, package
from latentsmith.utils.weights import read_tensors

log = logging.getLogger(__name__)

Net = Literal["vgg", "alex"]

# LPIPS's own input normalisation of [-1, 1] images: ImageNet's mean and deviation, mapped there.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


@dataclass(frozen=True)
class _Trunk:
    """What is known of one trunk."""

    taps: tuple[int, ...]
    """Index of the layer after which each of the five feature maps is read."""
    widths: tuple[int, ...]
    smallest: int
    """Smallest image side in pixels that leaves every feature map at least one position."""
    file: str
    """torchvision's weight file."""


TRUNKS: dict[Net, _Trunk] = {
    "vgg": _Trunk((3, 8, 15, 22, 29), (64, 128, 256, 512, 512), 16, "vgg16-397923af.pth"),
    "alex": _Trunk((1, 4, 7, 9, 11), (64, 192, 384, 256, 256), 31, "alexnet-owt-7be5be79.pth"),
}


def build_trunk(net: Net) -> nn.Sequential:
    """Convolutional part of VGG16 or AlexNet up to its last ReLU, torchvision's layer order."""
    layers: list[nn.Module] = []
    channels = 3
    if net == "vgg":
        for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
            if width == 0:
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        return nn.Sequential(*layers)
    for width, kernel, stride, padding, pooled in (
        (64, 11, 4, 2, True),
        (192, 5, 1, 2, True),
        (384, 3, 1, 1, False),
        (256, 3, 1, 1, False),
        (256, 3, 1, 1, False),
    ):
        layers += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if pooled else []
        channels = width
    return nn.Sequential(*layers)


class LPIPS(nn.Module):
    """Frozen perceptual distance with gradient to both images.

    Args:
        net: trunk.
        trunk: state dict of `build_trunk`'s layers.
        linear: five non-negative weights per channel, ``lin<i>.model.1.weight`` [1, C_i, 1, 1].
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net, trunk: dict[str, Tensor], linear: dict[str, Tensor]):
        super().__init__()
        self.net: Net = net
        self.trunk = build_trunk(net)
        self.trunk.load_state_dict(trunk)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        self.linear = nn.ParameterList(
            nn.Parameter(linear[f"lin{i}.model.1.weight"].view(1, -1, 1, 1).clone())
            for i in range(len(TRUNKS[net].taps))
        )
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> "LPIPS":
        """Does nothing: the distance is frozen."""
        return self

    def digest(self) -> str:
        """Hex digest of trunk and linear weights."""
        return state_digest(self.state_dict())

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] in [0, 1] → five maps [B, C_i, h_i, w_i] of unit length per position."""
        x = ((images * 2 - 1) - self.shift) / self.scale  # LPIPS was made for [-1, 1]
        maps = []
        for i, layer in enumerate(self.trunk):
            x = layer(x)
            if i in TRUNKS[self.net].taps:
                # float32: the squares of bf16 activations lose the small channels. Epsilon under
                # the root: its gradient at an all-zero position would be infinite.
                wide = x.float()
                maps.append(wide / (wide.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return maps

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each pair [B], float32.

        Args:
            a, b: [B, 1 or 3, H, W] in [0, 1]; gray is repeated.

        Raises:
            UserError: images too small for the trunk.
        """
        smallest = TRUNKS[self.net].smallest
        if min(a.shape[-2:]) < smallest:
            raise UserError(
                f"LPIPS with {self.net} needs images of {smallest} x {smallest} pixels or more, "
                f"these are {a.shape[-2]} x {a.shape[-1]}: set the perceptual weight to 0"
                + (", or use vgg" if self.net == "alex" else "")
            )
        a, b = (x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x for x in (a, b))
        distance = torch.zeros(len(a), device=a.device)
        for weight, f_a, f_b in zip(self.linear, self.features(a), self.features(b), strict=True):
            distance = distance + ((f_a - f_b).square() * weight).sum(1).mean((1, 2))
        return distance


def load_lpips(net: Net = "vgg", *, trunk: str | None = None, linear: str | None = None) -> LPIPS:
    """LPIPS with published weights.

    Args:
        net: ``vgg`` (smoother gradient: the usual loss) or ``alex`` (the usual metric).
        trunk: file (``.pth`` or ``.safetensors``) with torchvision's ImageNet weights, or a hub id
            with them (``timm/vgg16.tv_in1k``). Left out: torch.hub's cache is looked in.
        linear: file with LPIPS's linear weights. Left out: those torchmetrics ships.

    Raises:
        UserError: weights that are not there or do not fit, with how to get them.
    """
    state = read_tensors(_find_trunk(net, trunk))
    state = {k.removeprefix("features."): v for k, v in state.items()}
    wanted = {k: v.shape for k, v in build_trunk(net).state_dict().items()}
    wrong = [k for k, shape in wanted.items() if k not in state or state[k].shape != shape]
    if wrong:
        raise UserError(
            f"the trunk weights for LPIPS do not fit {net}: 'features.{wrong[0]}' is missing or "
            f"has another shape. {_how(net)}"
        )
    lin = read_tensors(_find_linear(net, linear))
    if any(f"lin{i}.model.1.weight" not in lin for i in range(len(TRUNKS[net].taps))):
        raise UserError(f"{linear} holds no LPIPS linear weights ('lin0.model.1.weight', …)")
    return LPIPS(net, {k: state[k] for k in wanted}, lin)


def lpips_needs(net: Net, trunk: str | None) -> list[Need]:
    """For ``latentsmith doctor``: are trunk and linear weights on this machine?"""
    needs = [package("torchmetrics")]  # carries the linear weights
    if trunk is not None and not Path(trunk).is_file() and trunk.count("/") == 1:
        return [*needs, hub_weights(trunk)]
    there = Path(trunk) if trunk else Path(torch.hub.get_dir()) / "checkpoints" / TRUNKS[net].file
    return [*needs, Need(f"LPIPS trunk {net}", there.is_file(), _how(net))]


def _how(net: Net) -> str:
    file = TRUNKS[net].file
    hub = " or the hub id timm/vgg16.tv_in1k" if net == "vgg" else ""
    return (
        f"Give torchvision's file (https://download.pytorch.org/models/{file}){hub} as the "
        "perceptual trunk, or set the perceptual weight to 0"
    )


def _find_trunk(net: Net, trunk: str | None) -> Path:
    if trunk is None:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / TRUNKS[net].file
        if cached.is_file():
            log.info("LPIPS: trunk weights from %s", cached)
            return cached
        raise UserError(f"LPIPS has no trunk weights (nothing at {cached}). {_how(net)}")
    if Path(trunk).is_file():
        return Path(trunk)
    if trunk.count("/") != 1 or Path(trunk).suffix in (".pth", ".pt", ".safetensors"):
        raise UserError(f"LPIPS trunk weights {trunk!r}: no such file. {_how(net)}")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(trunk, "model.safetensors"))
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"LPIPS trunk weights {trunk!r}: {first}. {_how(net)}") from error


def _find_linear(net: Net, linear: str | None) -> Path:
    if linear is not None:
        if not Path(linear).is_file():
            raise UserError(f"LPIPS linear weights {linear!r}: no such file")
        return Path(linear)
    spec = importlib.util.find_spec("torchmetrics")  # not imported: only its data file is wanted
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "functional" / "image" / "lpips_models" / f"{net}.pth"
        if path.is_file():
            return path
    raise UserError(
        "LPIPS's linear weights come with the package torchmetrics: pip install torchmetrics, or "
        f"give a file (weights/v0.1/{net}.pth of github.com/richzhang/PerceptualSimilarity)"
    )
