"""1x1 convolutions as matrix products: pixels that lie channels_last are the rows of a matrix, and nothing is copied.

On a GPU all of them are. cuDNN plans a convolution when it first meets its shape, and a super network has thousands of
shapes, most of them of 1x1 convolutions; a product needs no plan.

On a CPU they are where the weight is frozen, in the steps of the alphas. Of a product nothing but the weight is kept
for the gradient of the input, while of a convolution torch keeps the input, too.

A module gets another class; its parameters, name and hooks stay.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PointwiseConv2d(nn.Conv2d):
    """What `as_product` makes of a 1x1 convolution: the same numbers, to rounding."""

    always = False  # a product, and not only where the weight is frozen

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Convolve; maps that do not lie channels_last as any convolution does."""
        wanted = self.always or (x_NCHW.requires_grad and not self.weight.requires_grad)
        if not wanted or not x_NCHW.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x_NCHW)
        return F.linear(x_NCHW.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def as_product(conv: nn.Module, always: bool) -> None:
    """Turn a 1x1 convolution into a `PointwiseConv2d`; others are left alone.

    Args:
        conv: any module.
        always: for every input, and not only where the weight is frozen.
    """
    if type(conv) not in (nn.Conv2d, PointwiseConv2d):
        return
    assert isinstance(conv, nn.Conv2d)
    if conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1:
        conv.always = always  # type: ignore[assignment]
        conv.__class__ = PointwiseConv2d
