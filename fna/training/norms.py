"""Batch norms: their statistics made anew."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fna.training.compute import Compute


def norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the batch norms of a model."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@torch.no_grad()
def recalibrate(model: nn.Module, images: Iterator[Tensor], batches: int, compute: Compute) -> None:
    """Recompute every batch norm's running statistics as the average over `batches` batches of normalised images.

    Only `model`'s own norms are touched: of a super network's path (`supernet.path_network`) no other candidate's.
    Weights do not change. Statistics inherited by remapping, or of rarely drawn candidates, are poor (a path scored
    3.8 mIoU before and 37.2 after, on CamVid).
    """
    momenta = [(norm, norm.momentum) for norm in norms(model)]
    model.train()
    try:
        for norm, _ in momenta:
            norm.reset_running_stats()
        for number in range(batches):
            for norm, _ in momenta:
                norm.momentum = 1 / (number + 1)  # a cumulative average; with None torch reads its count off the device
            with compute.autocast():
                model(next(images))
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
