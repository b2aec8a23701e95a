"""Training views of detection data: pure functions of (rng_seed, epoch, index), the same in any worker or rank.

Two ways, ``data.augment``:

- ``resize``: the image in its proportions at the size that fits the canvas ``data.crop`` (turned where the image is
  upright) times a factor uniform in ``data.scale``. Above 1, a random part as large as the canvas is cut out, which
  bounds the size of batches.
- ``ssd``: as SSD is trained: distort the colours, zoom out on a canvas up to 4 times as wide, cut out a part that
  overlaps a box by some IoU, stretch it to exactly ``data.crop``. Source: Liu et al., SSD, ECCV 2016, sections 2.2 and
  3.6, with the ranges of torchvision's reference training.

Both flip. A box stays if its centre is in the part; it is cut to it, and dropped if a side is below `MIN_SIDE` then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import box_iou
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from fna.config import DetectionDataConfig
from fna.data.augmenting import jitter, uniform
from fna.data.detection.boxes import DetectionData
from fna.data.detection.views import Pair, Sample, Window, fit, scaled, turned
from fna.rng import generator

SCALE = (0.8, 1.2)  # of 'resize' where data.scale is null
MIN_SIDE = 1.0  # pixels
ZOOM = 4.0  # largest side of SSD's canvas / the image's
OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)  # smallest IoU of a part and some box; None: the whole image
TRIES = 40  # parts drawn for an overlap
ROUNDS = 50  # overlaps drawn, at most


class DetectionView(Dataset[Sample]):
    """Augmented samples of some records; crowd and difficult boxes are not in them.

    Args:
        data: where the records are.
        indices: records of this view; a position is an index into them.
        config: crop, scale, flip and color_jitter.
        rng_seed: the run's seed.
        augment: ``"resize"`` or ``"ssd"``.
    """

    def __init__(
        self, data: DetectionData, indices: Sequence[int], config: DetectionDataConfig, rng_seed: int, augment: str
    ) -> None:
        self.data = data
        self.indices = tuple(indices)
        self.config = config
        self.rng_seed = rng_seed
        self.ssd = augment == "ssd"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return the sample of `key` = (epoch, position)."""
        epoch, position = key
        index = self.indices[position]
        draws = generator(self.rng_seed, "augment", epoch, index)
        image_3HW, truth = self.data.load(index)
        boxes_N4, labels_N = plain(truth)
        size: Pair = (image_3HW.shape[1], image_3HW.shape[2])
        window = (
            draw_patch(size, boxes_N4, self.config.crop, draws)
            if self.ssd
            else draw_resize(size, self.config.crop, self.config.scale or SCALE, draws)
        )
        region_3hw = window.cut(image_3HW)
        if not self.ssd:
            region_3hw = jitter(region_3hw, self.config.color_jitter, draws)
        elif self.config.color_jitter > 0:
            region_3hw = distort(region_3hw, draws)
        crop_3HW = window.paste(region_3hw)
        boxes, kept = cut_boxes(boxes_N4, window)
        if self.config.flip and uniform(draws) < 0.5:
            crop_3HW, boxes = v2.functional.horizontal_flip(crop_3HW), v2.functional.horizontal_flip(boxes)
        return {"image": crop_3HW, "boxes": boxes.as_subclass(Tensor), "labels": labels_N[kept], "index": index}


def plain(truth: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the boxes (N, 4) and labels (N,) that are neither of crowds nor difficult; a truth may mark none."""
    kept_N = torch.ones(len(truth["labels"]), dtype=torch.bool)
    for mark in ("crowd", "difficult"):
        if mark in truth:
            kept_N &= ~truth[mark]
    return truth["boxes"][kept_N], truth["labels"][kept_N]


def cut_boxes(boxes_N4: Tensor, window: Window) -> tuple[BoundingBoxes, Tensor]:
    """Move boxes of an image onto the window's canvas.

    Args:
        boxes_N4: x0, y0, x1, y1 in pixels of the image.
        window: what is seen of it.

    Returns:
        The boxes whose centre is on the canvas, cut to it, but for those with a side below `MIN_SIDE`; and their
        positions among all.
    """
    moved_N4 = window.move(boxes_N4)
    (height, width), centres_N2 = window.canvas, (moved_N4[:, :2] + moved_N4[:, 2:]) / 2
    inside_N = ((centres_N2 >= 0) & (centres_N2 < centres_N2.new_tensor([width, height]))).all(1)
    boxes = BoundingBoxes(moved_N4, format=BoundingBoxFormat.XYXY, canvas_size=(height, width))
    boxes = v2.functional.clamp_bounding_boxes(boxes)
    sides_N = (boxes[:, 2:] - boxes[:, :2]).amin(1) if len(boxes_N4) else boxes_N4.new_zeros(0)
    kept = (inside_N & (sides_N >= MIN_SIDE)).nonzero()[:, 0]
    return BoundingBoxes(boxes[kept], format=BoundingBoxFormat.XYXY, canvas_size=(height, width)), kept


# --- multi-scale resize -----------------------------------------------------------------------------------------------


def draw_resize(size: Pair, crop: Pair, scale: tuple[float, float], draws: torch.Generator) -> Window:
    """Draw a window: the whole image, or a part as large as the canvas.

    Args:
        size: height, width of the image in pixels.
        crop: the canvas, turned where the image is upright and it is not, or the other way round.
        scale: smallest and largest size, of what fits the canvas.
        draws: where randomness comes from.
    """
    canvas = turned(crop, size)
    factor = fit(size, canvas) * (scale[0] + (scale[1] - scale[0]) * uniform(draws))
    parts = [_draw_part(n, c, factor, draws) for n, c in zip(size, canvas, strict=True)]
    (y, h, tall), (x, w, wide) = parts
    return Window((y, x), (h, w), (tall, wide), (0, 0), (tall, wide))


def _draw_part(length: int, canvas: int, factor: float, draws: torch.Generator) -> tuple[int, int, int]:
    """Return start and size of the part along an axis, and its size when resized."""
    resized = scaled(length, factor)
    if resized <= canvas:
        return 0, length, resized
    part = min(length, scaled(canvas, 1 / factor))
    return int(uniform(draws) * (length - part + 1)), part, canvas


# --- SSD --------------------------------------------------------------------------------------------------------------


def draw_patch(size: Pair, boxes_N4: Tensor, crop: Pair, draws: torch.Generator) -> Window:
    """Draw SSD's window: zoom out with probability 0.5, then cut out a part that overlaps a box enough.

    Args:
        size: height, width of the image in pixels.
        boxes_N4: x0, y0, x1, y1 in its pixels.
        crop: the canvas, which the part is stretched to.
        draws: where randomness comes from.
    """
    height, width = size
    frame = (0, 0, width, height)
    if uniform(draws) < 0.5:
        side = 1 + (ZOOM - 1) * uniform(draws)
        wide, tall = int(width * side), int(height * side)
        left, top = int((wide - width) * uniform(draws)), int((tall - height) * uniform(draws))
        frame = (-left, -top, wide - left, tall - top)
    x0, y0, x1, y1 = _draw_overlapping(frame, boxes_N4, draws)
    (y, h, tall, top), (x, w, wide, left) = (
        seen_part(y0, y1, height, crop[0]),
        seen_part(x0, x1, width, crop[1]),
    )
    return Window((y, x), (h, w), (tall, wide), (top, left), crop)


def _draw_overlapping(
    frame: tuple[int, int, int, int], boxes_N4: Tensor, draws: torch.Generator
) -> tuple[int, int, int, int]:
    """Draw a part of `frame` (x0, y0, x1, y1 in pixels) that holds the centre of a box and overlaps such a box enough.

    Its sides are 0.3 to 1 of the frame's, its width 0.5 to 2 times its height.
    """
    if not len(boxes_N4):
        return frame
    x0, y0, x1, y1 = frame
    centres_N2 = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    for _ in range(ROUNDS):
        overlap = OVERLAPS[int(uniform(draws) * len(OVERLAPS))]
        if overlap is None:
            return frame
        drawn_T4 = torch.rand((TRIES, 4), generator=draws)
        sides_T2 = (drawn_T4.new_tensor([x1 - x0, y1 - y0]) * (0.3 + 0.7 * drawn_T4[:, :2])).floor().clamp_min(1)
        start_T2 = ((drawn_T4.new_tensor([x1 - x0, y1 - y0]) - sides_T2) * drawn_T4[:, 2:]).floor()
        start_T2 = start_T2 + drawn_T4.new_tensor([x0, y0])
        parts_T4 = torch.cat([start_T2, start_T2 + sides_T2], 1)
        proportion_T = sides_T2[:, 0] / sides_T2[:, 1]
        within_TN = ((centres_N2 > parts_T4[:, None, :2]) & (centres_N2 < parts_T4[:, None, 2:])).all(2)
        overlaps_TN = torch.where(within_TN, box_iou(parts_T4, boxes_N4), -1)
        good_T = (proportion_T >= 0.5) & (proportion_T <= 2) & (overlaps_TN.amax(1) >= overlap)
        if bool(good_T.any()):
            left, top, right, bottom = map(int, parts_T4[int(good_T.int().argmax())].tolist())
            return left, top, right, bottom
    return frame


def seen_part(start: int, end: int, length: int, canvas: int) -> tuple[int, int, int, int]:
    """Return what is seen of an axis between start and end, which may be outside the image, stretched to the canvas.

    Returns:
        Start and size in the image; size and start on the canvas.
    """
    first, last = min(max(start, 0), length - 1), max(min(end, length), 1)
    factor = canvas / (end - start)
    low, high = round((first - start) * factor), round((last - start) * factor)
    resized = max(1, high - low)
    return first, last - first, resized, min(low, canvas - resized)


def distort(image_3HW: Tensor, draws: torch.Generator) -> Tensor:
    """Distort brightness, contrast, saturation, hue and the order of channels, each with probability 0.5."""
    late = uniform(draws) < 0.5  # the contrast comes first or last
    brightness, contrast, saturation, hue = (_around(draws, span) for span in (0.125, 0.5, 0.5, 0.05))
    order = torch.randperm(3, generator=draws).tolist() if uniform(draws) < 0.5 else None
    if brightness is not None:
        image_3HW = v2.functional.adjust_brightness(image_3HW, 1 + brightness)
    if contrast is not None and not late:
        image_3HW = v2.functional.adjust_contrast(image_3HW, 1 + contrast)
    if saturation is not None:
        image_3HW = v2.functional.adjust_saturation(image_3HW, 1 + saturation)
    if hue is not None:
        image_3HW = v2.functional.adjust_hue(image_3HW, hue)
    if contrast is not None and late:
        image_3HW = v2.functional.adjust_contrast(image_3HW, 1 + contrast)
    return image_3HW if order is None else v2.functional.permute_channels(image_3HW, order)


def _around(draws: torch.Generator, span: float) -> float | None:
    """Return a number in -span to span, or None with probability 0.5."""
    applied, value = torch.rand(2, generator=draws).tolist()
    return span * (2 * value - 1) if applied < 0.5 else None
