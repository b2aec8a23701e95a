"""Streams of batches: what is trained on, a function of the step alone, and what is scored, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fna.data.sampling import Loader, StepSampler
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


def train_batches(
    problem: Problem,
    data: Any,
    indices: Sequence[int],
    batch_size: int,
    purpose: str,
    compute: Compute,
    steps: tuple[int, int],
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield (batch, normalised images on the device) for the iterations from ``steps[0]`` to ``steps[1]`` (exclusive).

    A batch is a function of (rng seed, purpose, iteration): workers, processes and interruptions do not change it.
    """
    view = problem.task.train_view(data, indices, problem.config)
    sampler = make_sampler(data, indices, batch_size, purpose, compute, steps)
    preload(data)
    for batch in Loader(view, compute.workers, batches=sampler, collate=problem.task.collate):
        names = [data.name(int(i)) for i in batch["index"]]
        yield {**batch, "names": names}, compute.images(batch["image"], problem.mean, problem.std)


@dataclass(frozen=True)
class Scored:
    """Records to score whose views have one size: positions in the data, views (N, 3, H, W), frames and truths."""

    indices: list[int]
    images: Tensor
    frames: list[Any]
    truths: list[Any]


def scored_batches(
    problem: Problem, data: Any, indices: Sequence[int], batch_size: int, compute: Compute
) -> Iterator[Scored]:
    """Yield records in order, made by the workers ahead of time; neighbours whose views have one size come together."""
    preload(data)
    held: list[tuple[int, Tensor, Any, Any]] = []
    views = _Views(problem, data, indices)
    for item in Loader(views, compute.workers if len(indices) > FEW else 0):
        if held and (held[0][1].shape != item[1].shape or len(held) == batch_size):
            yield _pack(held, problem, compute)
            held = []
        held.append(item)
    if held:
        yield _pack(held, problem, compute)


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


def _pack(held: list[tuple[int, Tensor, Any, Any]], problem: Problem, compute: Compute) -> Scored:
    indices, views, frames, truths = zip(*held, strict=True)
    images_N3HW = compute.images(torch.stack(views), problem.mean, problem.std)
    return Scored(list(indices), images_N3HW, list(frames), list(truths))


def preload(data: Any) -> None:
    """Let data decode into memory what fits, before workers are forked, which then share it."""
    if hasattr(data, "preload"):
        data.preload()
