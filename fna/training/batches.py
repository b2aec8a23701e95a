"""Streams of batches: what is trained on, a function of the step alone, and what is scored, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from fna.arch.target import Form
from fna.data.sampling import Loader, StepSampler
from fna.data.transforming import transformed
from fna.tasks.problem import Problem
from fna.training.compute import Compute
from fna.training.engine import Batch

FEW = 8  # records that are not worth starting workers for


def make_sampler(
    data: Any,
    indices: Sequence[int],
    batch_size: int,
    purpose: str,
    compute: Compute,
    steps: tuple[int, int] = (0, 0),
) -> StepSampler:
    """Return the order of `indices` for iterations ``steps[0]`` to ``steps[1]`` of one purpose."""
    world = compute.world
    groups = [data.groups[i] for i in indices] if data.groups else ()
    return StepSampler(
        len(indices), batch_size, compute.rng_seed, purpose, steps[0], steps[1], world.rank, world.size, groups
    )


@dataclass(frozen=True)
class Stream:
    """What is trained on, an iteration after the other.

    A batch is a function of (rng seed, purpose, iteration): workers, processes and interruptions do not change it.

    Args:
        problem: what samples are made for.
        data: the split.
        indices: the records of this stream.
        batch_size: records per step and process.
        purpose: other purposes, other orders.
        compute: hardware and processes.
        scales: iteration -> input scale of its samples.
    """

    problem: Problem
    data: Any
    indices: Sequence[int]
    batch_size: int
    purpose: str
    compute: Compute
    scales: Callable[[int], float] = lambda step: 1.0

    def batches(self, first: int, last: int) -> Iterator[tuple[Batch, Tensor]]:
        """Yield (batch, normalised images) on the device, for iterations from `first` to `last` (exclusive)."""
        for batch in self.on_host(first, last):
            yield on_device(batch, self.problem, self.compute)

    def on_host(self, first: int, last: int) -> Iterator[Batch]:
        """Yield what `batches` takes to the device: images of 8 bits, and truths."""
        problem, data, compute = self.problem, self.data, self.compute
        sampler = make_sampler(data, self.indices, self.batch_size, self.purpose, compute, (first, last))
        views: Dataset[Any] = _ScaledViews(problem, data, self.indices)
        batches = _WithScales(sampler, self.scales)
        preload(data)
        if problem.config.data.transform and self.indices:
            views[0, 0, 1.0]  # a mistake in it shows here, not in a worker
        pinned = compute.device.type == "cuda"
        for batch in Loader(views, compute.workers, batches=batches, collate=problem.task.collate, pinned=pinned):
            yield {**batch, "names": [data.name(int(i)) for i in batch["index"]]}


def on_device(batch: Batch, problem: Problem, compute: Compute) -> tuple[Batch, Tensor]:
    """Return a batch with its truth on the device, and its normalised images."""
    return compute.truths(batch), compute.images(batch["image"], problem.mean, problem.std)


class _WithScales(Sampler[list[tuple[int, int, float]]]):
    """The samples of a step sampler, each with the input scale of its step."""

    def __init__(self, steps: StepSampler, scales: Callable[[int], float]) -> None:
        self.steps, self.scales = steps, scales

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int, float]]]:
        for step, keys in enumerate(self.steps, self.steps.start_step):
            scale = self.scales(step)
            yield [(*key, scale) for key in keys]


class _ScaledViews(Dataset[Any]):
    """Training samples by (epoch, position, input scale)."""

    def __init__(self, problem: Problem, data: Any, indices: Sequence[int]) -> None:
        self.problem, self.data, self.indices = problem, data, indices
        self.views: dict[float, Any] = {1.0: problem.task.train_view(data, indices, problem.config)}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int, float]) -> Any:
        epoch, position, scale = key
        if scale not in self.views:
            config = self.problem.at(Form(scale=scale)).config
            self.views[scale] = self.problem.task.train_view(self.data, self.indices, config)
        sample, name = self.views[scale][epoch, position], self.problem.config.data.transform
        return transformed(sample, name, self.problem.config.engine.rng_seed, epoch) if name else sample


@dataclass(frozen=True)
class Scored:
    """Records to score whose views have one size: positions in the data, views (N, 3, H, W), frames and truths.

    There may be more views, each with its frame, than records: the last one again.
    """

    indices: list[int]
    images: Tensor
    frames: list[Any]
    truths: list[Any]


def scored_batches(
    problem: Problem, data: Any, indices: Sequence[int], batch_size: int, compute: Compute
) -> Iterator[Scored]:
    """Yield records in order, made by the workers ahead of time; neighbours whose views have one size come together.

    Where new shapes take long, a short batch after a whole one of the same views is filled up.
    """
    preload(data)
    held: list[tuple[int, Tensor, Any, Any]] = []
    whole = set[torch.Size]()  # shapes of views of which a batch was full
    views = _Views(problem, data, indices)

    def packed() -> Scored:
        shape = held[0][1].shape
        if len(held) == batch_size:
            whole.add(shape)
        return _pack(held, batch_size if compute.one_shape and shape in whole else len(held), problem, compute)

    for item in Loader(views, compute.workers if len(indices) > FEW else 0):
        if held and (held[0][1].shape != item[1].shape or len(held) == batch_size):
            yield packed()
            held = []
        held.append(item)
    if held:
        yield packed()


class _Views(Dataset[tuple[int, Tensor, Any, Any]]):
    """Records as they are scored: position in the data, view, frame, truth."""

    def __init__(self, problem: Problem, data: Any, indices: Sequence[int]) -> None:
        self.problem, self.data, self.indices = problem, data, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Tensor, Any, Any]:
        image_3HW, truth = self.data.load(self.indices[position])
        view_3HW, frame = self.problem.view(image_3HW, truth)
        return self.indices[position], view_3HW, frame, truth


def _pack(held: list[tuple[int, Tensor, Any, Any]], size: int, problem: Problem, compute: Compute) -> Scored:
    indices, views, frames, truths = (list(parts) for parts in zip(*held, strict=True))
    missing = size - len(held)
    stacked = torch.stack(views + missing * views[-1:])
    stacked = stacked.pin_memory() if compute.device.type == "cuda" else stacked
    images_N3HW = compute.images(stacked, problem.mean, problem.std)
    return Scored(indices, images_N3HW, frames + missing * frames[-1:], truths)


def preload(data: Any) -> None:
    """Let data decode into memory what fits, before workers are forked, which then share it."""
    if hasattr(data, "preload"):
        data.preload()
