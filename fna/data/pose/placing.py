"""Cut a scaled, turned and mirrored rectangle out of an image without aliasing.

Pixels that lie apart in the image are averaged, not picked: the straight rectangle is resized with an antialiasing
filter first, and turned then, at the crop's own resolution. Straight crops, all that are scored, are interpolated once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fna.data.augmenting import FILL_RGB
from fna.data.pose.checks import Box

ROUNDING = 1e-6  # pixels: the sine of 180 degrees is not quite 0
Pixels = NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True)
class Placing:
    """Where a crop lies in an image.

    Attributes:
        x: its centre in image pixels, counted from the rim of the first pixel.
        y: likewise.
        step: image pixels per crop pixel.
        angle: by which the image is turned clockwise in the crop, in degrees.
        mirrored: whether the crop shows its mirror image.
    """

    x: float
    y: float
    step: float
    angle: float = 0.0
    mirrored: bool = False

    @classmethod
    def around(cls, box: Box, size_hw: tuple[int, int], padding: float) -> Placing:
        """Return the crop in the middle of which a box is: its sides at least `padding` times the box's.

        Args:
            box: x0, y0, width, height in image pixels; a side below a pixel counts as one.
            size_hw: of the crop.
            padding: 1 is the tightest crop that holds the box.
        """
        x0, y0, width, height = box
        step = padding * max(max(1.0, width) / size_hw[1], max(1.0, height) / size_hw[0])
        return cls(x0 + width / 2, y0 + height / 2, step)

    def turned(self, angle: float, mirrored: bool) -> Placing:
        """Return the crop turned, and then mirrored."""
        return replace(self, angle=angle, mirrored=mirrored)

    def matrix(self, size_hw: tuple[int, int]) -> Tensor:
        """Return what takes crop pixels, counted from the rim, to image pixels, counted from the centre; (2, 3)."""
        turn = math.radians(self.angle)
        cos, sin, side = math.cos(turn) * self.step, math.sin(turn) * self.step, -1 if self.mirrored else 1
        linear = torch.tensor([[cos * side, sin], [-sin * side, cos]], dtype=torch.float64)
        middle = torch.tensor([size_hw[1] / 2, size_hw[0] / 2], dtype=torch.float64)
        centre = torch.tensor([self.x - 0.5, self.y - 0.5], dtype=torch.float64)
        return torch.cat([linear, (centre - linear @ middle)[:, None]], 1)


def cut(image_3HW: Tensor, place: Placing, size_hw: tuple[int, int]) -> Tensor:
    """Return the crop, uint8 (3, *size_hw) in channels-last memory order; `FILL_RGB` where there is no image.

    Args:
        image_3HW: RGB, uint8.
        place: where the crop is.
        size_hw: its height and width.
    """
    image_HW3 = image_3HW.permute(1, 2, 0).numpy()
    if place.angle % 360 == 0:
        crop_hw3 = _straight(image_HW3, place, size_hw)[:, :: -1 if place.mirrored else 1]
    else:
        crop_hw3 = _turn(image_HW3, place, size_hw)
    return torch.from_numpy(np.array(crop_hw3)).permute(2, 0, 1)


def _turn(image_HW3: Pixels, place: Placing, size_hw: tuple[int, int]) -> Pixels:
    """Return a crop that is not straight: cut the straight rectangle that holds it, and turn that."""
    height, width = size_hw
    turn = math.radians(place.angle)
    cos, sin, side = math.cos(turn), math.sin(turn), -1 if place.mirrored else 1
    across = math.ceil(width * abs(cos) + height * abs(sin) - ROUNDING) + 2  # one more on each side, to interpolate
    down = math.ceil(width * abs(sin) + height * abs(cos) - ROUNDING) + 2
    straight = Image.fromarray(_straight(image_HW3, place, (down, across)))
    x = across / 2 - (cos * side * width + sin * height) / 2
    y = down / 2 - (-sin * side * width + cos * height) / 2
    matrix = (cos * side, sin, x, -sin * side, cos, y)
    turned = straight.transform(
        (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL_RGB
    )
    return np.asarray(turned)


def _straight(image_HW3: Pixels, place: Placing, size_hw: tuple[int, int]) -> Pixels:
    """Return a crop without rotation and mirror: what it covers of the image resized, the rest filled."""
    axes = []
    for middle, size, length in ((place.y, size_hw[0], image_HW3.shape[0]), (place.x, size_hw[1], image_HW3.shape[1])):
        start = middle - size / 2 * place.step
        first = min(size, max(0, math.floor(-start / place.step)))  # of the crop's pixels, those that touch the image
        stop = max(first, min(size, math.ceil((length - start) / place.step)))
        axes.append((start + first * place.step, first, stop, length))
    (y, top, bottom, _), (x, left, right, _) = axes
    full = (top, left, bottom, right) == (0, 0, *size_hw)
    canvas = np.empty((0, 0, 3), np.uint8) if full else _filled(*size_hw)
    if top == bottom or left == right:
        return canvas
    reach = max(1, math.ceil(place.step))  # of the filter, in image pixels
    x0, x1 = math.floor(x) - reach, math.ceil(x + (right - left) * place.step) + reach
    y0, y1 = math.floor(y) - reach, math.ceil(y + (bottom - top) * place.step) + reach
    region = Image.fromarray(_region(image_HW3, (y0, y1), (x0, x1)))
    box = (x - x0, y - y0, x - x0 + (right - left) * place.step, y - y0 + (bottom - top) * place.step)
    resized = np.asarray(region.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box))
    if full:
        return resized
    canvas[top:bottom, left:right] = resized
    return canvas


def _region(image_HW3: Pixels, rows: tuple[int, int], columns: tuple[int, int]) -> Pixels:
    """Return a rectangle of the image, filled where it is outside."""
    (y0, y1), (x0, x1) = rows, columns
    height, width = image_HW3.shape[:2]
    inner = image_HW3[max(0, y0) : min(height, y1), max(0, x0) : min(width, x1)]
    if inner.shape[:2] == (y1 - y0, x1 - x0):
        return np.ascontiguousarray(inner)
    region = _filled(y1 - y0, x1 - x0)
    region[max(0, -y0) : max(0, -y0) + inner.shape[0], max(0, -x0) : max(0, -x0) + inner.shape[1]] = inner
    return region


def _filled(height: int, width: int) -> Pixels:
    """Return an area of `FILL_RGB`."""
    row = np.tile(np.array(FILL_RGB, np.uint8), width)
    return np.tile(row, (height, 1)).reshape(height, width, 3)
