"""How much memory a training step takes, told without taking it: shapes flow, no number is computed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from fna.arch import Arch
from fna.config import AdaptConfig, OptimizerConfig, SearchConfig
from fna.errors import FnaError, out_of_memory
from fna.tasks.problem import Problem
from fna.training.compute import Compute

MOMENTS = {"sgd": 1, "rmsprop": 2, "adam": 2, "adamw": 2}  # numbers an optimizer keeps for each weight
MARGIN = 4 / 3  # gradients of the maps, the loss and the kernels' work space; measured, see docs/reference.md
USABLE = 0.9  # of a device's memory


@contextmanager
def in_memory(
    section: str, config: AdaptConfig | SearchConfig, problem: Problem, arch: Arch, compute: Compute
) -> Iterator[None]:
    """Turn running out of memory into an error that says what was tried and what would fit.

    Args:
        section: of the settings that `config` is.
        config: how it trains.
        problem: at the largest input scale.
        arch: the backbone, undilated; of a super network that of its seed.
        compute: the device.

    Raises:
        FnaError: there was not enough memory.
    """

    def told() -> str:
        whole = device_memory(compute.device)
        images = config.at_once if isinstance(config, AdaptConfig) else config.batch_size
        tried = _tried(section, images, problem.config.data.crop, compute)
        images //= 2
        while images and whole and training_memory(problem, arch, images, config.optimizer, compute) > USABLE * whole:
            images //= 2
        return f"{tried}; {_smaller(section, config, images)}"

    with _refused(told):
        yield


@contextmanager
def scored_in_memory(images_N3HW: Tensor, compute: Compute) -> Iterator[None]:
    """Turn running out of memory while images are scored into an error that says how many to take at once.

    Raises:
        FnaError: there was not enough memory.
    """
    number, _, height, width = images_N3HW.shape
    fewer = f"--evaluate.batch_size {number // 2}" if number > 1 else "--engine.device cpu"
    with _refused(lambda: f"{_tried('scoring', number, (height, width), compute)}; type {fewer}"):
        yield


@contextmanager
def _refused(told: Callable[[], str]) -> Iterator[None]:
    """Turn running out of memory into an error that says what `told` returns; others pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise FnaError(told()) from error


def _tried(what: str, images: int, size_hw: tuple[int, int], compute: Compute) -> str:
    whole = device_memory(compute.device)
    have = f" ({whole / 2**30:.1f} GiB)" if whole else ""
    return f"{compute.device}{have} ran out of memory: {what} took {images} images of {size_hw[0]}x{size_hw[1]} at once"


def device_memory(device: torch.device) -> int | None:
    """Return the bytes of memory that a device has; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if hasattr(os, "sysconf") and {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _smaller(section: str, config: AdaptConfig | SearchConfig, images: int) -> str:
    """Say what to type so that so many images are in the network at once."""
    if not images:
        return "not one image fits: type a smaller --data.crop HEIGHT,WIDTH, or take a machine with more memory"
    said = f"type --{section}.batch_size {images}"
    if isinstance(config, AdaptConfig):
        said += (
            f", or --{section}.accumulate {-(-config.batch_size // images)} to keep the batch of {config.batch_size}"
        )
    return f"{said}; a smaller --data.crop helps, too"


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
