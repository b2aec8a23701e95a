"""ReLU6 in place that keeps its output for the gradient, as ReLU does: the next layer keeps that anyway.

torch copies the input of an in-place ReLU6 before it is overwritten, and keeps the copy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LeanReLU6(nn.ReLU6):
    """What `lean` makes of a ReLU6 in place: the same numbers. Nothing may change its output in place."""

    def forward(self, input: Tensor) -> Tensor:
        """Clamp to [0, 6], in place."""
        if not (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)
        out: Tensor = _ReLU6.apply(input)
        return out


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.clamp_(0, 6)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors  # at an end where the input was there or outside
        grad: Tensor = torch.ops.aten.hardtanh_backward(grads[0], out, 0, 6)
        return grad


def lean(module: nn.Module) -> None:
    """Turn a ReLU6 in place into a `LeanReLU6`; others are left alone."""
    if type(module) is nn.ReLU6 and module.inplace:
        module.__class__ = LeanReLU6
