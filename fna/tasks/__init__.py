"""Tasks: what differs between segmentation, detection and pose, as a dataclass of functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.data import Dataset

from fna.arch import A
from fna.config import Config, DataConfig, TaskConfig
from fna.network import FeatureInfo


class Data(Protocol):
    """One split of a data set, validated."""

    classes: tuple[str, ...]
    skipped: list[str]

    def __len__(self) -> int:
        """Return the number of images."""

    def load(self, index: int) -> tuple[Tensor, Any]:
        """Return the uint8 image, (3, H, W), and its truth."""

    def name(self, index: int) -> str:
        """Return the image's file name."""


class Scores(Protocol):
    """A metric that accumulates over images and processes."""

    def update(self, predictions: Any, truths: Sequence[Any]) -> None:
        """Add a batch."""

    def compute(self) -> dict[str, Any]:
        """Return the scores over all processes; each process must call it."""


@dataclass(frozen=True)
class Task:
    """A dense vision task.

    Args:
        metric: name of the headline score, in [0, 1], larger is better.
        open_data: (data config, split) -> one validated split.
        train_view: (data, indices, data config, rng seed) -> augmented crops by (epoch, position).
        prepare: gives an Arch or SuperArch the task's output stride.
        head: (feature info, number of classes, task config) -> the head.
        loss: (output, batch) -> (summed loss, number of terms), both scalars.
        predict: (model, normalised images, sizes of the truths, config) -> predictions.
        scores: data -> an empty metric.
        draw: (prediction or truth, data) -> uint8 RGB picture, (H, W, 3), as a numpy array.
    """

    metric: str
    open_data: Callable[[DataConfig, str], Any]
    train_view: Callable[[Any, Sequence[int], DataConfig, int], Dataset[Any]]
    prepare: Callable[[Any, TaskConfig], Any]
    head: Callable[[Sequence[FeatureInfo], int, TaskConfig], nn.Module]
    loss: Callable[[Any, Mapping[str, Any]], tuple[Tensor, Tensor]]
    predict: Callable[[nn.Module, Tensor, Sequence[tuple[int, int]], Config], Any]
    scores: Callable[[Any], Scores]
    draw: Callable[[Any, Any], Any]


def load_task(name: str) -> Task:
    """Return a task by name."""
    from fna.errors import pick
    from fna.tasks.segmentation import SEGMENTATION

    return pick({"segmentation": SEGMENTATION}, name, "task")


__all__ = ["A", "Data", "Scores", "Task", "load_task"]
