"""Where GPUs need help: 1x1 convolutions of a placed model are matrix products, which need no plan for every shape.

cuDNN plans a convolution when it first meets its shape, and a super network has thousands of shapes, most of them of
1x1 convolutions. Pixels that lie channels_last are the rows of a matrix as they are, so that nothing is copied.

A module gets another class; its parameters, name and hooks stay.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PointwiseConv2d(nn.Conv2d):
    """What `mend` makes of a 1x1 convolution: the same numbers, to rounding."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Convolve; maps that do not lie channels_last as any convolution does."""
        if not x_NCHW.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x_NCHW)
        return F.linear(x_NCHW.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def mend(model: nn.Module) -> None:
    """Turn the 1x1 convolutions of `model` into `PointwiseConv2d`; again does no harm."""
    for part in model.modules():
        if type(part) is not nn.Conv2d:
            continue
        if part.kernel_size == part.stride == (1, 1) and part.padding == (0, 0) and part.groups == 1:
            part.__class__ = PointwiseConv2d
