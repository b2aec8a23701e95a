"""Bilinear upsampling; in training as two matrix products, whose gradients are fast and the same bits every time.

torch adds up the gradient of its own bilinear upsampling in any order on a GPU, takes another, slow way when asked for
the same bits every time, and on a CPU is slow at the gradient of contiguous maps, as logits are.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F


def upsample(x_NCHW: Tensor, size_hw: tuple[int, int], training: bool) -> Tensor:
    """Return maps of another size in their layout, bilinearly (``align_corners=False``); in training float32 or more.

    Products of float32 are rounded as all are: see ``engine.tf32``.

    Args:
        x_NCHW: maps.
        size_hw: the size to have.
        training: whether gradients will be wanted.
    """
    if not training:
        return F.interpolate(x_NCHW, size=size_hw, mode="bilinear", align_corners=False)
    x_NCHW = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
    rows, columns = (
        _weights(*sides, x_NCHW.dtype, x_NCHW.device) for sides in zip(x_NCHW.shape[2:], size_hw, strict=True)
    )
    kind = x_NCHW.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        if not x_NCHW.is_contiguous():  # channels last
            x_NHWC = x_NCHW.permute(0, 2, 3, 1)
            tall = (rows @ x_NHWC.flatten(2)).unflatten(2, x_NHWC.shape[2:])
            last: Tensor = columns @ tall
            return last.permute(0, 3, 1, 2)
        out: Tensor = rows @ (x_NCHW @ columns.T)
        return out


@lru_cache(maxsize=64)
def _weights(before: int, after: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return what each of `after` pixels of a side takes of each of `before`, (after, before)."""
    with torch.inference_mode(False):
        places = (torch.arange(after, dtype=dtype, device=device) + 0.5) * (before / after) - 0.5
        distances = places.clamp(0, before - 1)[:, None] - torch.arange(before, device=device)
        return (1 - distances.abs()).clamp_min(0)
