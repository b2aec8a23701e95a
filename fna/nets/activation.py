"""ReLU6 in place that keeps as little for the gradient as there is: its output, which the next layer keeps anyway.

torch copies the input of an in-place ReLU6 before it is overwritten, and keeps the copy. Where weights are frozen, in
the steps of the alphas, the next layer keeps nothing, and this one a byte that says whether a number came through.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn


class LeanReLU6(nn.ReLU6):
    """What `lean` makes of a ReLU6 in place: the same numbers. Nothing may change its output in place."""

    frozen = False  # the weights of the network

    def forward(self, input: Tensor) -> Tensor:
        """Clamp to [0, 6], in place."""
        if not (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)
        out: Tensor = _ReLU6.apply(input, self.frozen)
        return out


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: bool) -> Tensor:
        through = x.clamp(*_inside(x.dtype)).eq_(x).to(torch.int8) if frozen else None  # the comparisons that are fast
        x.clamp_(0, 6)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x if through is None else through)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors  # the output, at an end where the input was there or outside; or 0 and 1
        return torch.ops.aten.hardtanh_backward(grads[0], kept.to(grads[0].dtype), 0, 6), None


@lru_cache
def _inside(dtype: torch.dtype) -> tuple[float, float]:
    """Return the least and the largest number between 0 and 6."""
    low, high = torch.tensor([0, 6], dtype=dtype).nextafter(torch.tensor([6, 0], dtype=dtype)).tolist()
    return low, high


def lean(module: nn.Module) -> None:
    """Turn a ReLU6 in place into a `LeanReLU6`; others are left alone."""
    if type(module) is nn.ReLU6 and module.inplace:
        module.__class__ = LeanReLU6
