"""Drawn plants on soil, each picture a function of (split, index): small, quick, and labelled for every task."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fna.data.synthetic.background import smooth_noise
from fna.rng import derive_seed

CLASSES = ("soil", "leaf", "stem")
SOIL, LEAF, STEM = range(3)
JOINTS = ("root", "middle", "top")
SIZE_HW = (160, 224)
FINER = 2  # drawn at this multiple
SOIL_RGB, LEAF_RGB, STEM_RGB = (112, 82, 58), (62, 138, 52), (150, 158, 84)


@dataclass(frozen=True)
class Field:
    """A picture and all that is known about it.

    Attributes:
        image: RGB, uint8, (height, width, 3).
        mask: class ids, uint8, (height, width).
        leaves: x0, y0, x1, y1 of each leaf, in pixels.
        plants: x0, y0, x1, y1 of each plant, in pixels.
        joints: x, y of the root, middle and top of each plant's stem, in pixels.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    leaves: list[list[float]]
    plants: list[list[float]]
    joints: list[list[tuple[float, float]]]


def draw_field(split: str, index: int, size_hw: tuple[int, int] = SIZE_HW) -> Field:
    """Draw a picture of two to four plants."""
    rng = np.random.default_rng(derive_seed(0, "field", split, index))
    height, width = size_hw
    mask = Image.new("L", (FINER * width, FINER * height))
    tint = Image.new("RGB", mask.size, SOIL_RGB)
    pens = ImageDraw.Draw(mask), ImageDraw.Draw(tint)
    leaves: list[list[float]] = []
    plants: list[list[float]] = []
    joints: list[list[tuple[float, float]]] = []
    count = int(rng.integers(2, 5))
    for place in rng.permutation(count):
        x = FINER * width * (place + rng.uniform(0.35, 0.65)) / count
        root = (x, FINER * height * rng.uniform(0.85, 0.98))
        stem, own = _draw_plant(rng, pens, root, FINER * min(0.7 * width / count, 0.55 * height))
        corners = np.concatenate([np.array(stem), *(np.array(leaf) for leaf in own)])
        leaves += [_box(np.array(leaf), size_hw) for leaf in own]
        plants.append(_box(corners, size_hw))
        joints.append([(x / FINER, y / FINER) for x, y in stem])
    light_HW = rng.uniform(0.6, 1.1) + 0.12 * smooth_noise(rng, size_hw, 3)
    noise_HW3 = rng.normal(0, rng.uniform(3, 9), (*size_hw, 3))
    image = np.asarray(tint.reduce(FINER)) * light_HW[..., None] + noise_HW3
    labels_HW = np.asarray(mask)[FINER // 2 :: FINER, FINER // 2 :: FINER].copy()
    return Field(image.clip(0, 255).astype(np.uint8), labels_HW, leaves, plants, joints)


def _draw_plant(
    rng: np.random.Generator,
    pens: tuple[ImageDraw.ImageDraw, ImageDraw.ImageDraw],
    root: tuple[float, float],
    size: float,
) -> tuple[list[tuple[float, float]], list[list[tuple[float, float]]]]:
    """Draw a stem and its leaves; return the stem's root, middle and top, and the leaves' outlines, in large pixels."""
    x, y = root
    lean, tall = rng.uniform(-0.25, 0.25, 2), size * rng.uniform(0.9, 1.5)
    stem = [(x, y), (x + lean[0] * tall / 2, y - tall / 2), (x + lean[1] * tall, y - tall)]
    outlines: list[list[tuple[float, float]]] = []
    for share in np.linspace(0.35, 1, int(rng.integers(3, 6))):
        part, along = (0, 2 * share) if share < 0.5 else (1, 2 * share - 1)
        (x0, y0), (x1, y1) = stem[part], stem[part + 1]
        turn = rng.uniform(0.2, 0.9) + math.pi * (len(outlines) % 2)  # to the right and the left
        base = (x0 + along * (x1 - x0), y0 + along * (y1 - y0))
        outlines.append(_leaf(base, -turn if len(outlines) % 2 == 0 else turn, size * rng.uniform(0.3, 0.5)))
    shade = rng.uniform(0.75, 1.25)
    pens[0].line(stem, STEM, round(size / 14))
    pens[1].line(stem, _shaded(STEM_RGB, shade), round(size / 14))
    for outline in outlines:
        pens[0].polygon(outline, LEAF)
        pens[1].polygon(outline, _shaded(LEAF_RGB, shade * rng.uniform(0.85, 1.15)))
    return stem, outlines


def _leaf(base: tuple[float, float], turn: float, length: float) -> list[tuple[float, float]]:
    """Return the outline of a leaf that begins at a point and points in a direction, in radians from the right."""
    along = np.linspace(0, 1, 9)
    half = 0.22 * np.sin(math.pi * along**0.8)
    u, v = np.concatenate([along, along[::-1]]) * length, np.concatenate([half, -half[::-1]]) * length
    cos, sin = math.cos(turn), math.sin(turn)
    return [(base[0] + a * cos - b * sin, base[1] + a * sin + b * cos) for a, b in zip(u, v, strict=True)]


def _box(corners_N2: NDArray[np.float64], size_hw: tuple[int, int]) -> list[float]:
    """Return the box around points, inside the picture, in its pixels."""
    limits = (FINER * size_hw[1] - 1, FINER * size_hw[0] - 1)
    low, high = (np.clip(edge, 0, limits) / FINER for edge in (corners_N2.min(0), corners_N2.max(0)))
    return [round(float(value), 1) for value in (*low, *high)]


def _shaded(color: tuple[int, int, int], shade: float) -> tuple[int, int, int]:
    red, green, blue = (min(255, round(part * shade)) for part in color)
    return red, green, blue
