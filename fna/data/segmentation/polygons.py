"""Polygons in text files, drawn as masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fna.data.decoding import read_image
from fna.data.listing import Arrays, Pairs
from fna.data.stamps import Stamp
from fna.data.yolo_files import read_lines
from fna.errors import FnaError, short

MOST = 252  # number of a class
FINER = 4  # Pillow draws the pixels that the outline touches, too: with smaller pixels these are few


@dataclass(frozen=True)
class Polygons(Pairs):
    """Images and text files in place of masks: nothing is label 0, class number n is n + 1, later lines are on top."""

    def __call__(self, position: int, stamps: dict[Path, Stamp] | None = None) -> Arrays:
        """Return the image and the labels at a position."""
        image_HW3 = read_image(self.images[position], stamps)
        return image_HW3, draw_polygons(self.masks[position], (image_HW3.shape[0], image_HW3.shape[1]))


def draw_polygons(file: Path, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the labels of the lines ``class x y x y x y ...``, shares of the image; a pixel's centre decides.

    Args:
        file: of the text; one that is not there has no lines.
        size_hw: of the image.

    Raises:
        FnaError: a line is no polygon.
    """
    lines = read_lines(file)
    if isinstance(lines, FnaError):
        raise FnaError(f"cannot read {file}: {lines}")
    height, width = size_hw
    mask = Image.new("L", (FINER * width, FINER * height))
    pen = ImageDraw.Draw(mask)
    for number, line in enumerate(lines, 1):
        if line.strip():
            class_number, corners = _polygon(line, f"{file.name}, line {number}")
            scaled = [(x * FINER * width - 0.5, y * FINER * height - 0.5) for x, y in corners]
            pen.polygon(scaled, fill=class_number + 1)
    return np.asarray(mask)[FINER // 2 :: FINER, FINER // 2 :: FINER].copy()


def _polygon(line: str, where: str) -> tuple[int, list[tuple[float, float]]]:
    """Return the class number and the corners of a line."""
    try:
        number, *values = map(float, line.split())
    except ValueError as error:
        raise FnaError(f"{where} is {short(line)}; expected numbers: class x y x y x y ...") from error
    if len(values) == 4:
        raise FnaError(f"{where} is a box, not a polygon; boxes are for detection: --task.name detection")
    if len(values) < 6 or len(values) % 2 or not all(map(math.isfinite, values)):
        raise FnaError(
            f"{where} has {len(values) + 1} numbers; expected a class and three corners or more: x y x y x y"
        )
    if not number.is_integer() or not 0 <= number <= MOST:
        raise FnaError(f"{where} is of class {number:g}; expected a number from 0 to {MOST}")
    return int(number), list(zip(values[::2], values[1::2], strict=True))
