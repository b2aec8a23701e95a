"""How much memory a training step takes, told without taking it: shapes flow, no number is computed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from fna.arch import Arch
from fna.config import OptimizerConfig
from fna.tasks.problem import Problem
from fna.training.compute import Compute

MOMENTS = {"sgd": 1, "rmsprop": 2, "adam": 2, "adamw": 2}  # numbers an optimizer keeps for each weight
MARGIN = 4 / 3  # gradients of the maps, the loss and the kernels' work space; measured, see docs/reference.md


def training_memory(problem: Problem, arch: Arch, batch_size: int, optimizer: OptimizerConfig, compute: Compute) -> int:
    """Estimate the bytes that training a task's network takes at most, beside what Python and its libraries take.

    It is the sum of weights, gradients and the optimizer's moments, and `MARGIN` x the maps that a forward pass at
    ``data.crop`` and this precision keeps for the backward pass.

    Args:
        problem: what the network is for; its crop is the size of the images.
        arch: the backbone, undilated.
        batch_size: images a step and process.
        optimizer: which one.
        compute: precision.
    """
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.device("meta"):
        model = problem.build(arch).train()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    images_N3HW = torch.empty(batch_size, 3, *problem.config.data.crop, device="meta")
    with saved_tensors_hooks(note, lambda tensor: tensor):
        model(images_N3HW)
    maps = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)
    if compute.dtype:  # autocast, which has no meta device, keeps nearly all maps in half the bytes
        maps //= 2
    return round(weights * (2 + MOMENTS[optimizer.name]) + MARGIN * maps)
