"""A finished network and its predictions; the data set it was trained on is not needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fna.arch import Arch
from fna.data.decoding import read_image, to_pixels
from fna.data.images import Pixels
from fna.data.pose.checks import check_box
from fna.errors import FnaError
from fna.nets.network import Model
from fna.tasks.problem import Problem
from fna.training.compute import Compute
from fna.training.distributed import World

Readable = str | Path | Image.Image | np.ndarray[Any, Any]


class Finished(nn.Module):
    """A finished network in evaluation mode: normalised images (N, 3, H, W) to what its head gives.

    Attributes:
        network: backbone and head.
        problem: what it is for: its settings, how images are brought to it and its output is read.
        arch: its backbone's architecture.
        record: all its JSON says.
    """

    def __init__(self, network: Model, problem: Problem, record: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.problem, self.record = network, problem, record
        self.arch: Arch = Arch.from_json(record["arch"])
        self.eval()

    def forward(self, images_N3HW: Tensor) -> Any:
        """Return what the head gives; `predict` does the rest."""
        return self.network(images_N3HW)

    @property
    def task(self) -> str:
        """Segmentation, detection or pose."""
        name: str = self.problem.config.task.name
        return name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or of the joints."""
        return self.problem.labels.classes

    @property
    def mean(self) -> tuple[float, float, float]:
        """To subtract from images, RGB in [0, 1]."""
        return self.problem.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """To divide images by, RGB in [0, 1]."""
        return self.problem.std

    @property
    def input_size(self) -> tuple[int, int]:
        """Height, width of what it sees; where images are seen at their own size, that of the first one scored."""
        return self.problem.size_hw


@torch.no_grad()
def predict(model: Finished, image: Readable | Sequence[Readable], box: Sequence[float] | None = None) -> Any:
    """Return what a network sees in an image, in the image's own pixels; of several images a list, batch by batch.

    Args:
        model: of `load`.
        image: a file, a PIL image, or RGB pixels, uint8 (height, width, 3); or a list of these.
        box: where the person of a pose is: x0, y0, width, height in pixels; None: the image is one person.

    Returns:
        Segmentation: class ids, int64 (height, width). Detection: a dict of ``boxes`` (n, 4), x0, y0, x1, y1,
        ``scores`` (n,) and ``labels`` (n,), best first. Pose: a dict of ``points`` (K, 3), x, y and score, ``box`` and
        ``score``. All on the CPU.

    Raises:
        FnaError: an image cannot be read, or the box is none in it.
    """
    images = image if isinstance(image, Sequence) and not isinstance(image, str) else [image]
    photos = (_open(model, one, box) for one in images)
    found = [predictions[0] for _, predictions in predictions_of(model, photos, compute_of(model))]
    return found if images is image else found[0]


@dataclass(frozen=True)
class Photo:
    """An image as a network sees it.

    Args:
        pixels: RGB, uint8 (height, width, 3).
        known: of each record in it: the ``box`` and its ``score`` of a person; else nothing.
        views: what the network sees of each record, uint8 (3, h, w), all of one size.
        frames: how they came from the image.
        path: its file; None: it is in memory.
    """

    pixels: Pixels
    known: Sequence[Mapping[str, Any]]
    views: Sequence[Tensor]
    frames: Sequence[Any]
    path: Path | None = None

    @classmethod
    def of(
        cls, problem: Problem, pixels_HW3: Pixels, known: Sequence[Mapping[str, Any]], path: Path | None = None
    ) -> Photo:
        """Cut the views out of an image."""
        image_3HW = torch.from_numpy(pixels_HW3).permute(2, 0, 1)
        joints = {"joints": problem.labels.classes}
        pairs = [problem.view(image_3HW, {**one, **joints}) for one in known]
        return cls(pixels_HW3, known, [view for view, _ in pairs], [frame for _, frame in pairs], path)


def _open(model: Finished, image: Readable, box: Sequence[float] | None) -> Photo:
    pixels_HW3 = read_image(Path(image)) if isinstance(image, str | Path) else to_pixels(image)
    return Photo.of(model.problem, pixels_HW3, [{} if box is None else {"box": _person_box(model, box, pixels_HW3)}])


def _person_box(model: Finished, box: Any, pixels_HW3: Pixels) -> Tensor:
    """Return the box of a person as a tensor, or refuse it."""
    if model.task != "pose":
        raise FnaError(f"a box is of a person, for pose; this network is of {model.task}: leave it out")
    bounds = check_box(np.asarray(box).tolist(), (pixels_HW3.shape[0], pixels_HW3.shape[1]))
    if isinstance(bounds, str):
        raise FnaError(f"the box cannot be a person's: {bounds}")
    return torch.tensor(bounds, dtype=torch.float32)


def predictions_of(
    model: Finished, photos: Iterable[Photo], compute: Compute, *, probabilities: bool = False
) -> Iterator[tuple[Photo, list[Any]]]:
    """Yield images, in order, with a prediction for each of their records.

    Args:
        model: the network, placed.
        photos: the images; neighbours whose views have one size make a batch (``evaluate.batch_size``), no more
            images than views.
        compute: the hardware it is on.
        probabilities: of each class at each pixel in place of class ids.
    """
    size, held, number = model.problem.config.evaluate.batch_size, list[Photo](), 0
    for photo in photos:
        sides = {view.shape for one in (*held, photo) for view in one.views[:1]}
        if held and (len(sides) > 1 or number + len(photo.views) > size or len(held) == size):
            yield from _see(model, held, compute, size, probabilities)
            held, number = [], 0
        held.append(photo)
        number += len(photo.views)
    yield from _see(model, held, compute, size, probabilities)


def _see(
    model: Finished, photos: Sequence[Photo], compute: Compute, size: int, probabilities: bool
) -> Iterator[tuple[Photo, list[Any]]]:
    """Yield images whose views have one size with their predictions; the score of a box counts for its person."""
    problem = model.problem
    views = [view for photo in photos for view in photo.views]
    frames = [frame for photo in photos for frame in photo.frames]
    look = problem.probabilities if probabilities else problem.predict
    found: list[Any] = []
    for start in range(0, len(views), size):
        x = compute.images(torch.stack(views[start : start + size]), problem.mean, problem.std)
        with torch.no_grad(), compute.autocast():
            found += look(model, x, frames[start : start + size])
    rest = iter(found)
    for photo in photos:
        own = [(next(rest), known.get("score", 1.0)) for known in photo.known]
        yield photo, [one if score == 1 else {**one, "score": one["score"] * score} for one, score in own]


def compute_of(model: nn.Module) -> Compute:
    """Return the hardware a model is on, in full precision."""
    return Compute(next(model.parameters()).device, None, False, World())
