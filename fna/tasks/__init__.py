"""Tasks: what differs between segmentation, detection and pose, as a dataclass of functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from fna.arch import Arch
from fna.config import TaskConfig

Picture = NDArray[np.uint8]  # RGB, (H, W, 3)
Settings = Any  # the classes of `fna.config` that are the task's own: its functions name them


class Data(Protocol):
    """One split of a data set, validated. A record is what is scored at once: an image, or a person in it.

    The truth of a record, in pixels of its image, is

    - segmentation: a mask, uint8 (H, W), of class ids and 255 = void.
    - detection: ``boxes`` float32 (N, 4), x0, y0, x1, y1, and ``labels`` int64 (N,). It may say ``crowd`` and
      ``difficult``, bool (N,), else False; ``area``, float32 (N,), else the box's; ``image_id``, a whole number, else
      the index + 1.
    - pose: ``points`` float32 (K, 3), x, y, visibility (0 unlabelled, 1 hidden, 2 seen), and ``box`` float32 (4,), x0,
      y0, width, height. It may say ``area``, else the box's; ``head``, the head's size, else unknown; ``image_id``, a
      number or a name, else the index + 1; ``joints``, the names, without which there is no flip test.

    Data may also have ``image_id(index)``, ``category_ids`` (detection: their own numbers of the classes), ``ignored``
    (pose: people in whose place a find is neither right nor wrong), ``preload()`` (decode what the memory is for,
    before workers are forked) and ``changed`` (what changed since the run began and was accepted, a line each).

    Attributes:
        classes: names of the classes, or of the joints.
        colors: RGB by class.
        links: pairs of joints that a skeleton joins; () where there are none.
        groups: a number per record; a batch mixes groups only where it must (upright and lying images). () is one.
        skipped: what was left out or mended, a line each.
    """

    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    links: tuple[tuple[int, int], ...]
    groups: Sequence[int]
    skipped: list[str]

    def __len__(self) -> int:
        """Return the number of records."""

    def load(self, index: int) -> tuple[Tensor, Any]:
        """Return the whole uint8 image, (3, H, W), and the record's truth in its pixels."""

    def name(self, index: int) -> str:
        """Return the image's file name."""


class Scores(Protocol):
    """A metric that accumulates over records and processes."""

    def update(self, indices: Sequence[int], predictions: Sequence[Any], truths: Sequence[Any]) -> None:
        """Add a batch: positions in the data, and what was predicted and is true for each."""

    def compute(self) -> dict[str, Any]:
        """Return the scores over all processes; each process must call it. See `Task.titles` for the keys."""


@dataclass(frozen=True)
class Task:
    """A dense vision task.

    What `scores` computes is a dict ready for JSON. A number is a score in [0, 1]; a dict of numbers (or None) is that
    score by class. Some keys are special: ``curves`` {title: {"x": label, "y": label, "lines": {name: [xs, ys]}}},
    ``confusion`` {"rows": names of the truth, "columns": names of the prediction, "counts": numbers by row}, ``counts``
    {"boxes", or what a class has: {class: how many there are in the truth}}, ``notes``
    sentences, ``results`` a list in COCO's results format, which goes to a file of its own with the names of the
    images: such a task's data have a method ``image_id(index)``.

    Args:
        metric: name of the headline score, in [0, 1], larger is better.
        titles: score -> how tables name it, in their order; numbers and dicts of numbers.
        layers: the article's Table I: layers per searchable stage.
        train_view: (data, indices, config) -> augmented samples by (epoch, position): dicts with at least ``image``,
            uint8 (3, H, W), and ``index``.
        collate: samples -> batch: ``image``, uint8 (N, 3, H, W), ``index``, int64 (N,), and what `loss` needs.
        prepare: gives an Arch or SuperArch the task's output stride and taps.
        head: (prepared Arch, number of classes, task config) -> the head, called with the features and the image size.
        head_start: (seed's weights, task config) -> weights of the head that the seed has already, by the head's names.
        loss: (head's output, batch, task config) -> (summed loss, number of terms), both scalars; `engine.global_mean`
            divides by the number over all processes.
        distillation: (head's output, another network's for the same images, batch, task config) -> how far the first is
            from the second where `loss` compares it with the truth, summed over the same terms, a scalar; 0 if they
            are equal. No gradient goes to the second.
        scored_size: config -> height, width of what the network sees of every record when it is scored; None: it is
            the image's own.
        multiple: sides of what the network sees are padded to multiples of this.
        view: (uint8 image, truth or what is known of it, config) -> what the network sees of a record when it is
            scored, uint8 (3, H, W), and the frame: how to get back to the image.
        predict: (model, normalised views, their frames, config) -> a prediction per view, on the CPU, in image pixels.
        scores: (data, config) -> an empty metric.
        draw: (picture, prediction or truth, data, config) -> the picture with it drawn in.
        records: (prediction, image id, data) -> COCO results of a prediction, ready for JSON; None: the
            task has no such format.
        draw_errors: (picture, prediction, truth) -> where the prediction is wrong; None: the task has no such picture.
        probabilities: as `predict`, but the probability of each class at each pixel; None: the task has no such map.
    """

    metric: str
    titles: Mapping[str, str]
    layers: tuple[int, ...]
    train_view: Callable[[Any, Sequence[int], Settings], Dataset[Any]]
    collate: Callable[[Sequence[Any]], Any]
    prepare: Callable[[Any, Settings], Any]
    head: Callable[[Arch, int, Settings], nn.Module]
    head_start: Callable[[Mapping[str, Tensor], Settings], dict[str, Tensor]]
    loss: Callable[[Any, Mapping[str, Any], Settings], tuple[Tensor, Tensor]]
    distillation: Callable[[Any, Any, Mapping[str, Any], Settings], Tensor]
    scored_size: Callable[[Settings], tuple[int, int] | None]
    view: Callable[[Tensor, Any, Settings], tuple[Tensor, Any]]
    predict: Callable[[nn.Module, Tensor, Sequence[Any], Settings], Sequence[Any]]
    scores: Callable[[Any, Settings], Scores]
    draw: Callable[[Picture, Any, Any, Settings], Picture]
    records: Callable[[Any, Any, Any], list[dict[str, Any]]] | None = None
    draw_errors: Callable[[Picture, Any, Any], Picture] | None = None
    probabilities: Callable[[nn.Module, Tensor, Sequence[Any], Settings], Sequence[Any]] | None = None
    multiple: int = 1


def load_task(name: str) -> Task:
    """Return a task by name."""
    from importlib import import_module

    from fna.config import TASKS
    from fna.errors import pick

    pick(TASKS, name, "task")
    task: Task = import_module(f"fna.tasks.{name}").TASK
    return task


def load_model(config: TaskConfig) -> Any:
    """Return the code of a model: its head's class, or the module where its task needs more than that."""
    from pkgutil import resolve_name

    return resolve_name(config.code)
