"""Scoring a network on records: loading, batching by size, precision and processes are the same for every task."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from fna.progress import bar
from fna.tasks.problem import Problem
from fna.training import distributed
from fna.training.batches import scored_batches
from fna.training.compute import Compute
from fna.training.memory import scored_in_memory


@torch.no_grad()
def evaluate(
    model: nn.Module,
    problem: Problem,
    data: Any,
    compute: Compute,
    indices: Sequence[int] | None = None,
    *,
    label: str = "score",
    keep: Collection[int] = (),
    kept: dict[int, Any] | None = None,
) -> dict[str, Any]:
    """Score `model`, also a path of a super network, on records of any data.

    Args:
        model: a task's network, on the device; left in the mode it came in.
        problem: says what it sees and how its output is read.
        data: one split.
        compute: the hardware, and the processes, each of which scores every n-th record.
        indices: positions in `data`; None: all.
        label: name on the progress bar.
        keep: records whose predictions are wanted.
        kept: where they are put, as far as this process scores them.

    Returns:
        The metric's scores over all processes.

    Raises:
        FnaError: the images of a batch do not fit into the device's memory.
    """
    training = model.training
    distributed.share_buffers(model)  # all processes score one network
    model.eval()
    scores = problem.scores(data)
    mine = list(range(len(data)) if indices is None else indices)[compute.world.rank :: compute.world.size]
    with bar(len(mine), label) as progress:
        for batch in scored_batches(problem, data, mine, problem.config.evaluate.batch_size, compute):
            with compute.autocast(), scored_in_memory(batch.images, compute):
                predictions = problem.predict(model, batch.images, batch.frames)[: len(batch.indices)]
            scores.update(batch.indices, predictions, batch.truths)
            if kept is not None:
                kept.update({i: p for i, p in zip(batch.indices, predictions, strict=True) if i in keep})
            progress.advance(len(batch.indices))
    model.train(training)
    return scores.compute()
