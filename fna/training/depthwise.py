"""Gradients of depthwise convolutions on CPUs, where the native ones are slow.

`benchmarks/results/depthwise.json` says how slow, layer by layer and for a whole training step. Both gradients are
convolutions again, so they are put together from the cases that are fast:

- the input's gradient is a stride-1 depthwise convolution of the output's gradient with the turned kernel;
- the weight's gradient comes in 3x3 pieces from undilated, unstrided sub-grids of the input.

The library's own kernels serve CUDA, evaluation, the plain 3x3 stride-1 case and stride with dilation; in float32 also
what is strided, or reaches past half of the map. Where the weight is frozen, in the steps of the alphas, all gradients
are by these functions: they do not keep the input then, which the library does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fna.nets.blocks import Pads, SameConv2d, pad_amounts


class DepthwiseConv2d(nn.Conv2d):
    """What `quicken` makes of a depthwise convolution: the same, with fast gradients on CPUs."""

    same: bool  # padded as TensorFlow pads

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Convolve; the output side is ceil(input side / stride)."""
        stride, dilation = self.stride[0], self.dilation[0]
        pads = pad_amounts(x_NCHW, self) if self.same else (_centre(self),) * 4
        if not _by_us(x_NCHW, self):
            return _convolve(x_NCHW, self.weight, pads, stride, dilation)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x_NCHW, weight = x_NCHW.to(dtype), weight.to(dtype)
        out: Tensor = _Depthwise.apply(x_NCHW, weight, pads, stride, dilation)
        return out


def quicken(conv: nn.Module) -> bool:
    """Turn a depthwise convolution without bias, padded to keep ceil(side / stride), into a `DepthwiseConv2d`.

    Its parameters, name and hooks stay, and so do the numbers it computes.

    Returns:
        Whether it was one. Others are left alone.
    """
    if type(conv) not in (nn.Conv2d, SameConv2d):
        return False
    assert isinstance(conv, nn.Conv2d)
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.bias is None
    square = all(pair[0] == pair[1] for pair in (conv.kernel_size, conv.stride, conv.dilation))
    if not depthwise or not square or conv.kernel_size[0] % 2 == 0 or conv.padding != (_centre(conv),) * 2:
        return False
    conv.same = type(conv) is SameConv2d  # type: ignore[assignment]
    conv.__class__ = DepthwiseConv2d
    return True


def _centre(conv: nn.Conv2d) -> int:
    """Return how far the middle tap is from the first."""
    return conv.dilation[0] * (conv.kernel_size[0] - 1) // 2


def _by_us(x_NCHW: Tensor, conv: nn.Conv2d) -> bool:
    """Tell whether the gradients of a call are by our functions."""
    if x_NCHW.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    if not x_NCHW.is_contiguous(memory_format=torch.channels_last):
        return False
    if not conv.weight.requires_grad:
        return x_NCHW.requires_grad
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_NCHW.dtype
    return not _library_is_fast(dtype, x_NCHW, conv)


def _library_is_fast(dtype: torch.dtype, x_NCHW: Tensor, conv: nn.Conv2d) -> bool:
    """Tell whether the library is as fast as our functions, or faster."""
    kernel, stride, dilation = conv.kernel_size[0], conv.stride[0], conv.dilation[0]
    if (kernel, stride, dilation) == (3, 1, 1) or (stride > 1 and dilation > 1):
        return True
    return dtype is torch.float32 and (stride > 1 or 2 * dilation > min(x_NCHW.shape[2:]))


def _convolve(x_NCHW: Tensor, weight_C1KK: Tensor, pads: Pads, stride: int, dilation: int) -> Tensor:
    padding = pads[0]
    if pads != (padding,) * 4:
        x_NCHW, padding = F.pad(x_NCHW, pads), 0
    return F.conv2d(x_NCHW, weight_C1KK, None, stride, padding, dilation, weight_C1KK.shape[0])


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of a channels_last input."""

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, weight_C1KK: Tensor, pads: Pads, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x_NCHW if ctx.needs_input_grad[1] else None, weight_C1KK)
        ctx.geometry, ctx.shape = (pads, stride, dilation), x_NCHW.shape
        return _convolve(x_NCHW, weight_C1KK, pads, stride, dilation)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        grad_x = input_gradient(grad, weight, ctx.shape, *ctx.geometry) if ctx.needs_input_grad[0] else None
        grad_weight = weight_gradient(grad, x, weight, *ctx.geometry) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None, None, None


def input_gradient(
    grad_NCHW: Tensor, weight_C1KK: Tensor, shape: torch.Size, pads: Pads, stride: int, dilation: int
) -> Tensor:
    """Return the gradient of the input: the output's gradient, spread by the stride, through the turned kernel.

    The output's pixel m reads around the input's pixel ``stride * m + centre - pad``, and there its gradient is put, so
    that a stride-1 convolution with the usual padding hands it back.
    """
    centre = dilation * (weight_C1KK.shape[-1] - 1) // 2
    if stride > 1 and (dilation > 1 or grad_NCHW.dtype is torch.float32):
        return _library_input_gradient(grad_NCHW, weight_C1KK, shape, pads, stride, dilation)
    if stride > 1:
        spread = torch.zeros(shape, dtype=grad_NCHW.dtype).contiguous(memory_format=torch.channels_last)
        spread[:, :, centre - pads[2] :: stride, centre - pads[0] :: stride] = grad_NCHW
        grad_NCHW = spread
    return F.conv2d(grad_NCHW, weight_C1KK.flip(2, 3), None, 1, centre, dilation, weight_C1KK.shape[0])


def _library_input_gradient(
    grad_NCHW: Tensor, weight_C1KK: Tensor, shape: torch.Size, pads: Pads, stride: int, dilation: int
) -> Tensor:
    """Return the gradient of the input by the library's own kernel, which wants an input but does not read it."""
    (n, c, h, w), (left, right, above, below) = shape, pads
    padding = left if pads == (left,) * 4 else 0
    if not padding:
        h, w = h + above + below, w + left + right
    unread = torch.empty((n, c, h, w), dtype=grad_NCHW.dtype, memory_format=torch.channels_last)
    sides = ([side] * 2 for side in (stride, padding, dilation))
    grad_x: Tensor = torch.ops.aten.convolution_backward(
        grad_NCHW, unread, weight_C1KK, None, *sides, False, [0, 0], c, [True, False, False]
    )[0]
    return grad_x if padding else grad_x[:, :, above : above + shape[2], left : left + shape[3]]


def weight_gradient(
    grad_NCHW: Tensor, x_NCHW: Tensor, weight_C1KK: Tensor, pads: Pads, stride: int, dilation: int
) -> Tensor:
    """Return the gradient of the weight, from sub-grids on which the convolution is undilated and unstrided."""
    out = torch.zeros_like(weight_C1KK, dtype=torch.promote_types(weight_C1KK.dtype, torch.float32))
    phases = list(product(range(max(stride, dilation)), repeat=2))
    if stride == 1:  # tap i reads x[h + (i - centre) d]: output and input split into the same d x d phases
        grads = [_phase(grad_NCHW, phase, dilation) for phase in phases]
        _set_taps(out, [_phase(x_NCHW, phase, dilation) for phase in phases], grads, weight_C1KK.shape[-1] // 2)
    else:
        assert dilation == 1, "a dilated layer has lost its stride"
        x_NCHW = F.pad(x_NCHW, pads)
        for a, b in phases:  # tap i reads x[s h + i]: phase i mod s of the input at h + i // s
            _set_taps(out[:, :, a::stride, b::stride], [_phase(x_NCHW, (a, b), stride)], [_phase(grad_NCHW, (0, 0), 1)])
    return out.to(weight_C1KK.dtype)


def _phase(x_NCHW: Tensor, first: Sequence[int], step: int) -> Tensor:
    """Return a view of every `step`-th pixel of each side, channels last."""
    return x_NCHW.permute(0, 2, 3, 1)[:, first[0] :: step, first[1] :: step]


def _set_taps(out_C1HW: Tensor, xs_NHWC: Sequence[Tensor], grads_NHWC: Sequence[Tensor], centre: int = 0) -> None:
    """Set the taps of an undilated stride-1 kernel of any size, three by three (the native fast case).

    Pixels lie in one row, image after image, and so do their gradients, with zeros between rows as wide as the kernel
    reaches past them. Then the input of three by three taps is all of that row from some pixel on, and nothing has to
    be copied for it.

    Args:
        out_C1HW: set in place.
        xs_NHWC: batches of images of one kernel.
        grads_NHWC: of their outputs.
        centre: the tap of each side that reads the output's own pixel; 0: the images are padded.
    """
    images, (rows, columns), channels = len(xs_NHWC[0]), out_C1HW.shape[2:], len(out_C1HW)
    high = centre + max(max(x.shape[1], grad.shape[1]) for x, grad in zip(xs_NHWC, grads_NHWC, strict=True))
    wide = max(max(centre + x.shape[2], grad.shape[2] + 2) for x, grad in zip(xs_NHWC, grads_NHWC, strict=True))
    height = len(xs_NHWC) * images * high
    pixels = out_C1HW.new_zeros(((height + rows + 3) * wide, channels), dtype=xs_NHWC[0].dtype)
    grad = pixels.new_zeros((height, wide - 2, channels))
    _put(pixels[: height * wide].view(len(xs_NHWC), images, high, wide, channels), xs_NHWC, centre)
    _put(grad.view(len(xs_NHWC), images, high, wide - 2, channels), grads_NHWC, 0)
    small, grad = grad.new_zeros((channels, 1, 3, 3)), grad[None].permute(0, 3, 1, 2)
    for i, j in product(_starts(rows), _starts(columns)):
        first = i * wide + j
        window = pixels[first : first + (height + 2) * wide].view(1, height + 2, wide, channels).permute(0, 3, 1, 2)
        _, taps, _ = torch.ops.aten.convolution_backward(
            grad, window, small, None, [1, 1], [0, 0], [1, 1], False, [0, 0], channels, [False, True, False]
        )
        out_C1HW[:, :, i : i + 3, j : j + 3] = taps[:, :, : rows - i, : columns - j]


def _put(places: Tensor, batches_NHWC: Sequence[Tensor], at: int) -> None:
    """Copy each batch to its place, so far from the upper and the left side."""
    for i, batch in enumerate(batches_NHWC):
        places[i, :, at : at + batch.shape[1], at : at + batch.shape[2]] = batch


def _starts(size: int) -> list[int]:
    """Where pieces of three begin so that they cover `size` taps."""
    return [*range(0, max(size - 3, 0), 3), max(size - 3, 0)]
