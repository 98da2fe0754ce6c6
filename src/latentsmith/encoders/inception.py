"""The Inception v3 that FID is defined on: TensorFlow's of 2015-12-05, weights from a file.

The network differs from the usual Inception v3 in its classifier (1,008 classes), in average pools
that do not count the padding, and in a maximum pool in the last block: other weights or another
definition give other numbers under the same name. So the file is checked by its published sha256
(``pt_inception-2015-12-05-6726825d.pth`` of pytorch-fid, the same bytes as torch-fidelity's
``weights-inception-2015-12-05-6726825d.pth``), and nothing else is ever loaded. No torchvision.
"""

import hashlib
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentsmith.config.schema import schema
from latentsmith.data.transforms import resize
from latentsmith.encoders.base import ENCODERS, Encoder, EncoderConfig, EncoderOutput, to_rgb
from latentsmith.errors import UserError
from latentsmith.utils.needs import Need
from latentsmith.utils.weights import read_tensors

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the published file, 95,628,359 bytes."""
FILE = "pt_inception-2015-12-05-6726825d.pth"
SIDE = 299
HOW = f"give encoder.path={FILE}: the file of pytorch-fid's release fid_weights"


@ENCODERS.register("inception", help="Inception v3 of FID (TensorFlow's), weights from a file")
@schema
class InceptionConfig(EncoderConfig):
    """FID's network: 2048 features after the last average pool."""

    kind: Literal["inception"] = "inception"
    path: str = ""
    """The published weights, ``pt_inception-2015-12-05-6726825d.pth`` (91 MiB); checked by their
    sha256."""
    resize: Literal["tf_bilinear", "bicubic_antialias"] = "tf_bilinear"
    """To 299 x 299: ``tf_bilinear``, as TensorFlow 1 did inside the network (FID as published, and
    torch-fidelity's); ``bicubic_antialias``, as clean-fid does. The two are not comparable."""
    output: Literal["pooled"] = "pooled"
    """Mean over positions of the last block [2048]."""

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        there = bool(self.path) and Path(self.path).expanduser().is_file()
        return [Need(f"weights {self.path or FILE}", there, HOW)]

    def build(self) -> "Inception":
        """Load the weights. Raises UserError when the file is missing or another one."""
        path = Path(self.path).expanduser()
        if not self.path or not path.is_file():
            raise UserError(f"no Inception weights at {self.path or '(no path)'}: {HOW}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != SHA256:
            raise UserError(
                f"{path} is not {FILE}: its sha256 is {found}, the published one {SHA256}. With "
                f"other weights the numbers would not be FID; {HOW}"
            )
        net = InceptionV3()
        net.load_state_dict(read_tensors(path))
        return Inception(net, digest=found, config=self)


def tf_bilinear(images: Tensor, side: int) -> Tensor:
    """[B, C, H, W] → [B, C, side, side] as TensorFlow 1's ``resize_bilinear``.

    Output pixel i looks at input position i · H / side (its corner, not its centre) and blends
    that pixel with the next; there is no antialiasing.
    """

    def ends(size: int) -> tuple[Tensor, Tensor, Tensor]:
        where = torch.arange(side, device=images.device, dtype=torch.float32) * (size / side)
        low = where.floor().long().clamp_max(size - 1)
        return low, (low + 1).clamp_max(size - 1), (where - low).to(images.dtype)

    top, bottom, down = ends(images.shape[-2])
    left, right, along = ends(images.shape[-1])
    rows = torch.lerp(images[..., top, :], images[..., bottom, :], down[:, None])
    return torch.lerp(rows[..., left], rows[..., right], along)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm (epsilon 0.001), rectifier."""

    def __init__(self, width: int, out: int, kernel: tuple[int, int], stride: int, pad: bool):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if pad else 0
        self.conv = nn.Conv2d(width, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, out, H', W']."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


Pool = Literal["average", "max", "halve"]


class Mixed(nn.Module):
    """Parallel chains of convolutions, joined by channel; last among them a pool.

    Args:
        width: channels in.
        chains: each a line of steps ``name:out:rows x columns``; ``+name`` applies the step to the
            same input as the one before it and joins the two.
        pool: ``average`` (padding not counted), ``max``, both keeping the size and followed by a
            1 x 1 convolution ``branch_pool``; ``halve``: maximum with stride 2 and no convolution,
            in a block whose chains end with stride 2 and no padding.
    """

    def __init__(self, width: int, chains: list[str], pool: Pool, pool_width: int = 0):
        super().__init__()
        self.pool: Pool = pool
        self.chains: list[list[list[str]]] = []
        for chain in chains:
            steps: list[list[str]] = []
            before = here = width
            for step in chain.split():
                name, out, size = step.lstrip("+").split(":")
                kernel = tuple(int(n) for n in size.split("x"))
                last = pool == "halve" and step == chain.split()[-1]
                if step.startswith("+"):
                    steps[-1].append(name)
                else:
                    steps.append([name])
                    before, here = here, 0
                self.add_module(
                    name,
                    ConvNorm(before, int(out), (kernel[0], kernel[1]), 1 + last, not last),
                )
                here += int(out)
            self.chains.append(steps)
        if pool_width:
            self.branch_pool = ConvNorm(width, pool_width, (1, 1), 1, True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H, W], or half the size."""
        out = []
        for steps in self.chains:
            y = x
            for names in steps:
                y = torch.cat([self.get_submodule(name)(y) for name in names], 1)
            out.append(y)
        if self.pool == "halve":
            return torch.cat([*out, F.max_pool2d(x, 3, 2)], 1)
        pooled = (
            F.max_pool2d(x, 3, 1, 1)
            if self.pool == "max"
            else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        )
        return torch.cat([*out, self.branch_pool(pooled)], 1)


def _fives(width: int, pool_width: int) -> Mixed:
    chains = [
        "branch1x1:64:1x1",
        "branch5x5_1:48:1x1 branch5x5_2:64:5x5",
        "branch3x3dbl_1:64:1x1 branch3x3dbl_2:96:3x3 branch3x3dbl_3:96:3x3",
    ]
    return Mixed(width, chains, "average", pool_width)


def _sevens(c: int) -> Mixed:
    chains = [
        "branch1x1:192:1x1",
        f"branch7x7_1:{c}:1x1 branch7x7_2:{c}:1x7 branch7x7_3:192:7x1",
        f"branch7x7dbl_1:{c}:1x1 branch7x7dbl_2:{c}:7x1 branch7x7dbl_3:{c}:1x7 "
        f"branch7x7dbl_4:{c}:7x1 branch7x7dbl_5:192:1x7",
    ]
    return Mixed(768, chains, "average", 192)


def _threes(width: int, pool: Pool) -> Mixed:
    chains = [
        "branch1x1:320:1x1",
        "branch3x3_1:384:1x1 branch3x3_2a:384:1x3 +branch3x3_2b:384:3x1",
        "branch3x3dbl_1:448:1x1 branch3x3dbl_2:384:3x3 "
        "branch3x3dbl_3a:384:1x3 +branch3x3dbl_3b:384:3x1",
    ]
    return Mixed(width, chains, pool, 192)


class InceptionV3(nn.Module):
    """TensorFlow's Inception v3 of 2015-12-05; state dict as in the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, (3, 3), 2, False)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, (3, 3), 1, False)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, (3, 3), 1, True)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, (1, 1), 1, False)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, (3, 3), 1, False)
        self.Mixed_5b = _fives(192, 32)
        self.Mixed_5c = _fives(256, 64)
        self.Mixed_5d = _fives(288, 64)
        self.Mixed_6a = Mixed(
            288,
            ["branch3x3:384:3x3",
             "branch3x3dbl_1:64:1x1 branch3x3dbl_2:96:3x3 branch3x3dbl_3:96:3x3"],
            "halve",
        )  # fmt: skip
        self.Mixed_6b, self.Mixed_6c = _sevens(128), _sevens(160)
        self.Mixed_6d, self.Mixed_6e = _sevens(160), _sevens(192)
        self.Mixed_7a = Mixed(
            768,
            ["branch3x3_1:192:1x1 branch3x3_2:320:3x3",
             "branch7x7x3_1:192:1x1 branch7x7x3_2:192:1x7 branch7x7x3_3:192:7x1 "
             "branch7x7x3_4:192:3x3"],
            "halve",
        )  # fmt: skip
        self.Mixed_7b = _threes(1280, "average")
        self.Mixed_7c = _threes(2048, "max")
        self.fc = nn.Linear(2048, 1008)  # in the file; features are taken before it

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 299, 299] in (-1, 1) → features [B, 2048]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))


class Inception(Encoder):
    """Frozen FID Inception; see `InceptionConfig`.

    Args:
        net: with its weights.
        digest: sha256 of the file they came from.
    """

    name = "inception"
    dim = 2048

    def __init__(self, net: InceptionV3, *, digest: str, config: InceptionConfig):
        super().__init__()
        self.net, self.resolution, self.resize = net, SIDE, config.resize
        self._digest = digest
        self.freeze()

    def preprocess(self, images: Tensor) -> Tensor:
        """Gray repeated, rounded to 8 bits (FID is of stored images), resized to 299 x 299, then
        (value - 128) / 128."""
        pixels = (to_rgb(images).float().clamp(0, 1) * 255).round()
        if self.resize == "tf_bilinear":
            pixels = tf_bilinear(pixels, SIDE)
        else:
            pixels = resize(pixels / 255, (SIDE, SIDE)) * 255
        return (pixels - 128) / 128

    @torch.no_grad()
    def forward(self, images: Tensor) -> EncoderOutput:
        """[B, 1 or 3, H, W] in [0, 1] → pooled [B, 2048]."""
        return EncoderOutput(pooled=self.net(self.preprocess(images)).float())

    def digest(self) -> str:
        """sha256 of the file of weights."""
        return self._digest

    def fingerprint(self) -> dict[str, object]:
        """See `Encoder.fingerprint`."""
        return {
            "kind": self.name,
            "weights": self.digest(),
            "resolution": SIDE,
            "resize": self.resize,
            "rounding": "8 bits",
            "output": self.output,
        }
