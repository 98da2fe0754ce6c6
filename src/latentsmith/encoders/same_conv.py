"""TensorFlow's "same" padding without a padded copy of the input."""

import math

from torch import Tensor, nn
from torch.nn import functional as F


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, which depends on the input's size.

    At stride 2 that often has one row and column more below and on the right than above and on the
    left; it is symmetric padding of a kernel that has a row and a column of zeros before its own.
    The kernel is small. Padding the input instead copies every activation, which takes longer than
    a convolution by depth does (channels-last, CPU: 37 of 44 ms where 96 channels of 48 x 48 are
    halved).
    """

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "SameConv2d":
        """With the very weights of ``conv``, whose own padding is left out."""
        (h, w), (y, x) = conv.kernel_size, conv.stride
        made = cls(
            conv.in_channels, conv.out_channels, (h, w), (y, x),
            groups=conv.groups, bias=conv.bias is not None, device="meta",
        )  # fmt: skip
        for name, parameter in conv.named_parameters(recurse=False):
            made.register_parameter(name, parameter)
        return made

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', ⌈H / stride⌉, ⌈W / stride⌉]."""
        padding, before = [], []
        for side, kernel, stride in zip(
            input.shape[2:], self.kernel_size, self.stride, strict=True
        ):
            both = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            padding.append(both - both // 2)
            before = [both % 2, 0, *before]  # `F.pad` begins with the last axis
        kernel = F.pad(self.weight, before) if any(before) else self.weight
        return F.conv2d(input, kernel, self.bias, self.stride, padding, 1, self.groups)
