"""Scoring a network on a split: loading, batching by size, precision and processes are the same for every task."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fna.progress import bar
from fna.training import distributed
from fna.training.setting import Setting


@torch.no_grad()
def evaluate(
    model: nn.Module,
    setting: Setting,
    *,
    label: str = "score",
    keep: Collection[int] = (),
    kept: dict[int, Any] | None = None,
) -> dict[str, Any]:
    """Score `model` on the validation split.

    Args:
        model: a task's network; left in the mode it came in.
        setting: task, data, configuration, and the processes, each of which takes every n-th image.
        label: name on the progress bar.
        keep: images whose predictions are wanted.
        kept: where they are put, as far as this process scores them.

    Returns:
        The metric's scores over all processes.
    """
    task, data, config, compute = setting.task, setting.val, setting.config, setting.compute
    training = model.training
    distributed.share_buffers(model)  # all processes score one network
    model.eval()
    scores = task.scores(data, config)
    mine = range(len(data))[compute.world.rank :: compute.world.size]
    with bar(len(mine), label) as progress:
        for indices, images, frames, truths in _batches(setting, mine):
            x = compute.images(images, setting.seed.mean, setting.seed.std)
            with compute.autocast():
                predictions = task.predict(model, x, frames, config)
            scores.update(indices, predictions, truths)
            if kept is not None:
                kept.update({i: p for i, p in zip(indices, predictions, strict=True) if i in keep})
            progress.advance(len(indices))
    model.train(training)
    return scores.compute()


Held = tuple[int, Tensor, Any, Any]  # index, view, frame, truth


def _batches(setting: Setting, indices: Sequence[int]) -> Iterator[tuple[list[int], Tensor, list[Any], list[Any]]]:
    """Group consecutive records whose views have one size."""
    held: list[Held] = []
    for index in indices:
        image, truth = setting.val.load(index)
        view, frame = setting.task.view(image, truth, setting.config)
        if held and (held[0][1].shape != view.shape or len(held) == setting.config.evaluate.batch_size):
            yield _pack(held)
            held = []
        held.append((index, view, frame, truth))
    if held:
        yield _pack(held)


def _pack(held: list[Held]) -> tuple[list[int], Tensor, list[Any], list[Any]]:
    indices, views, frames, truths = zip(*held, strict=True)
    return list(indices), torch.stack(views), list(frames), list(truths)
