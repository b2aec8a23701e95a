"""How an image and its boxes get onto a canvas and back: the view that is scored, and batches of any views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image
from torchvision.transforms import v2

from fna.arch import MULTIPLE
from fna.config import Config
from fna.data.augmenting import FILL_RGB

Pair = tuple[int, int]  # vertical, horizontal; in pixels


class Sample(TypedDict):
    """A view with what is to be learned from it.

    ``image`` uint8 (3, h, w); ``boxes`` float32 (N, 4), x0, y0, x1, y1 in its pixels; ``labels`` int64 (N,); ``index``
    of the record in the data.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    index: int


class Batch(TypedDict):
    """Views of a step.

    ``image`` uint8 (N, 3, H, W) in channels-last order, ``index`` int64 (N,), and lists of N tensors: ``boxes`` float32
    (n, 4) in pixels of the padded image, ``labels`` int64 (n,).
    """

    image: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    index: Tensor


@dataclass(frozen=True)
class Window:
    """A region of an image, and where it lands on a canvas.

    Only the region is resized, not the image: the same pixels as resizing first, but for the filter at its border.

    Attributes:
        start: top left corner of the region in the image.
        size: of the region.
        resized: what size it gets.
        offset: its top left corner on the canvas.
        canvas: size of the canvas.
    """

    start: Pair
    size: Pair
    resized: Pair
    offset: Pair
    canvas: Pair

    def cut(self, image_3HW: Tensor) -> Tensor:
        """Return the region of an image, uint8 (3, *resized): bilinear with antialiasing."""
        (y, x), (h, w) = self.start, self.size
        region: Tensor = image_3HW[..., y : y + h, x : x + w]
        return v2.functional.resize(region, list(self.resized), antialias=True)  # type: ignore[no-any-return]

    def paste(self, region_3hw: Tensor) -> Tensor:
        """Return the canvas with the region on it, uint8 (3, *canvas); the rest is `FILL_RGB`."""
        if self.resized == self.canvas:
            return region_3hw
        canvas_3HW = torch.tensor(FILL_RGB, dtype=torch.uint8).expand(*self.canvas, 3).clone().permute(2, 0, 1)
        (y, x), (h, w) = self.offset, self.resized
        canvas_3HW[:, y : y + h, x : x + w] = region_3hw
        return canvas_3HW

    def move(self, boxes_N4: Tensor) -> Tensor:
        """Return boxes of the image in pixels of the canvas; they may reach out of it."""
        start, offset = (boxes_N4.new_tensor(pair[::-1] * 2) for pair in (self.start, self.offset))
        scale = [resized / size for resized, size in zip(self.resized, self.size, strict=True)]
        return (boxes_N4 - start) * boxes_N4.new_tensor(scale[::-1] * 2) + offset


@dataclass(frozen=True)
class Frame:
    """How a view came from its image.

    Attributes:
        size_hw: size of the image in pixels.
        scale_hw: pixels of the view per pixel of the image, vertically and horizontally.
    """

    size_hw: Pair
    scale_hw: tuple[float, float]


def turned(canvas: Pair, size_hw: Pair) -> Pair:
    """Return the canvas, turned if one of canvas and image is upright and the other lying.

    >>> turned((240, 320), (640, 480))
    (320, 240)
    """
    (tall, wide), (height, width) = canvas, size_hw
    return (wide, tall) if (tall - wide) * (height - width) < 0 else canvas


def fit(size_hw: Pair, canvas: Pair) -> float:
    """Return the largest factor at which an image fits on a canvas."""
    return min(c / n for c, n in zip(canvas, size_hw, strict=True))


def scaled(length: int, factor: float) -> int:
    """Return a length in whole pixels, at least 1."""
    return max(1, round(length * factor))


def _round_up(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


def view(image_3HW: Tensor, truth: Any, config: Config) -> tuple[Tensor, Frame]:
    """Bring an image to the canvas that images are scored on, ``data.eval_size`` or the crop.

    SSDLite stretches it to the canvas. RetinaNet keeps its proportions, and turns the canvas where the image is upright
    and the canvas lying (or the other way round). Then the view is padded bottom and right with `FILL_RGB`, to the
    canvas and on to a multiple of `MULTIPLE`, as batches in training are: there the network learned where boxes lie.

    Args:
        image_3HW: RGB, uint8.
        truth: not used; images are seen whole.
        config: `data` and `task.model`.
    """
    size: Pair = (image_3HW.shape[1], image_3HW.shape[2])
    canvas = config.data.eval_size or config.data.crop
    resized = canvas
    if config.task.model != "ssdlite":
        canvas = turned(canvas, size)
        factor = fit(size, canvas)
        resized = (min(canvas[0], scaled(size[0], factor)), min(canvas[1], scaled(size[1], factor)))
    window = Window((0, 0), size, resized, (0, 0), (_round_up(canvas[0]), _round_up(canvas[1])))
    return window.paste(window.cut(image_3HW)), Frame(size, (resized[0] / size[0], resized[1] / size[1]))


def to_view(boxes_N4: Tensor, frame: Frame) -> Tensor:
    """Return boxes of an image in pixels of its view."""
    return boxes_N4 * boxes_N4.new_tensor(frame.scale_hw[::-1] * 2)


def to_image(boxes_N4: Tensor, frame: Frame) -> Tensor:
    """Return boxes of a view in pixels of its image, cut to it; those in the padding lose their area."""
    boxes_N4 = boxes_N4 / boxes_N4.new_tensor(frame.scale_hw[::-1] * 2)
    return clip_boxes_to_image(boxes_N4, frame.size_hw)  # type: ignore[no-any-return]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples: images are padded bottom and right to the largest height and width, rounded up to `MULTIPLE`."""
    shapes = [sample["image"].shape for sample in samples]
    height, width = (_round_up(max(shape[axis] for shape in shapes)) for axis in (1, 2))
    images_NHW3 = torch.tensor(FILL_RGB, dtype=torch.uint8).repeat(len(samples), height, width, 1)
    for image_HW3, sample in zip(images_NHW3, samples, strict=True):
        _, h, w = sample["image"].shape
        image_HW3[:h, :w] = sample["image"].permute(1, 2, 0)
    return {
        "image": images_NHW3.permute(0, 3, 1, 2),
        "boxes": [sample["boxes"] for sample in samples],
        "labels": [sample["labels"] for sample in samples],
        "index": torch.tensor([sample["index"] for sample in samples]),
    }
