"""Scoring a network on a split: loading, batching by size, precision and processes are the same for every task."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fna.config import Config
from fna.progress import bar
from fna.training import Setting


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
    model.eval()
    scores = task.scores(data)
    mine = range(len(data))[compute.world.rank :: compute.world.size]
    with bar(len(mine), label) as progress:
        for indices, images, truths in _batches(data, mine, config):
            x = compute.images(images, setting.seed.mean, setting.seed.std)
            with compute.autocast():
                predictions = task.predict(model, x, [tuple(t.shape[-2:]) for t in truths], config)
            scores.update(predictions, truths)
            if kept is not None:
                kept.update({i: p for i, p in zip(indices, predictions, strict=True) if i in keep})
            progress.advance(len(indices))
    model.train(training)
    return scores.compute()


def _batches(data: Any, indices: Sequence[int], config: Config) -> Iterator[tuple[list[int], Tensor, list[Any]]]:
    """Group consecutive images of equal size."""
    held: list[tuple[int, Tensor, Any]] = []
    for index in indices:
        image, truth = data.load(index)
        image = resize(image[None], config)[0]
        fits = held and held[0][1].shape == image.shape and held[0][2].shape == truth.shape
        if held and (not fits or len(held) == config.evaluate.batch_size):
            yield _pack(held)
            held = []
        held.append((index, image, truth))
    if held:
        yield _pack(held)


def _pack(held: list[tuple[int, Tensor, Any]]) -> tuple[list[int], Tensor, list[Any]]:
    return [h[0] for h in held], torch.stack([h[1] for h in held]), [h[2] for h in held]


def resize(images_N3HW: Tensor, config: Config) -> Tensor:
    """Bring uint8 images to the size they are scored at (``data.eval_size``)."""
    size = config.data.eval_size
    if size is None or tuple(images_N3HW.shape[2:]) == tuple(size):
        return images_N3HW
    return F.interpolate(images_N3HW, size=size, mode="bilinear", antialias=True)
