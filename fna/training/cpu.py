"""Where CPUs need help: convolutions of a placed model that compute the same as plain ones, faster or more safely.

A module gets another class; its parameters, names and hooks stay. Evaluation and export see plain convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fna.nets.network import Model
from fna.training.depthwise import quicken


class WideConv2d(nn.Conv2d):
    """A strided 3x3 convolution that is safe for maps one pixel wide.

    In bfloat16 on a CPU the weight's gradient of such a convolution holds memory that nobody wrote (torch 2.14). The
    second column that is added is what the padding has there, so nothing else changes.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Convolve."""
        if x_NCHW.shape[3] == 1:
            last = x_NCHW.is_contiguous(memory_format=torch.channels_last)
            x_NCHW = F.pad(x_NCHW, (0, 1))
            x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last) if last else x_NCHW
        return super().forward(x_NCHW)


def mend(model: nn.Module) -> None:
    """Give every convolution of `model` that needs it what CPUs need; again does no harm.

    Strided convolutions of a head work on maps of few pixels: there the library's depthwise gradients are no slower.
    """
    small = set(model.head.modules()) if isinstance(model, Model) else set()
    for part in model.modules():
        if not isinstance(part, nn.Conv2d):
            continue
        if part not in small or part.stride == (1, 1):
            quicken(part)
        if type(part) is nn.Conv2d and (part.kernel_size, part.stride) == ((3, 3), (2, 2)):
            part.__class__ = WideConv2d
