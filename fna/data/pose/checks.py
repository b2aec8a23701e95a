"""The rules a person must meet, and how those that can be mended are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]  # x0, y0, width, height in pixels

SLACK = 0.5  # pixels a joint may be outside its image: annotations round, and count from 0 or 1
HUGE = 1e9  # pixels, also square ones: images have less than 1e8
LARGEST = 10  # times the image's longer side: a box above it is a slip
MARGIN = 0.1  # of a box around joints, as a share of its longer side, on each side


@dataclass(frozen=True)
class Wrong:
    """What a reader found in place of joints or a box, in the words of its format."""

    text: str


@dataclass(frozen=True)
class Checked:
    """A person after the checks.

    Attributes:
        points: x, y, visibility, float32 (K, 3), mended; None: they cannot be.
        box: mended.
        area: mended.
        defects: what was wrong, and details.
        outside: joints that are labelled outside the image.
    """

    points: NDArray[np.float32] | None
    box: Box
    area: float
    defects: list[tuple[str, str]]
    outside: list[str]


def check(points: Any, box: Any, area: Any, joints: Sequence[str], size_hw: tuple[int, int]) -> Checked:
    """Check a person against the rules.

    Args:
        points: K times x, y, visibility, nested or flat, or `Wrong`; anything may be in it.
        box: x0, y0, width, height, None to take the one around the joints inside the image, `Wrong`, or anything.
        area: in square pixels, None to take the box's, or anything.
        joints: names of the K joints.
        size_hw: height, width of the image.
    """
    defects: list[tuple[str, str]] = []
    table = _table(points, len(joints))
    if isinstance(table, str):
        return Checked(None, (0, 0, *size_hw[::-1]), 0, [("the joints cannot be read", table)], [])
    points_K3 = np.zeros((len(joints), 3), np.float32)
    for row, name, (x, y, visibility) in zip(points_K3, joints, table, strict=True):
        seen = number(visibility)
        if seen not in (0, 1, 2):
            defects.append(("a visibility is not 0, 1 or 2", f"{name} {short(visibility)}"))
            seen = 2.0 if seen > 0 else 0.0
        place = (number(x), number(y))
        if seen and not all(map(math.isfinite, place)):
            defects.append(("a joint is nowhere", f"{name} ({short(x)}, {short(y)})"))
        elif seen:
            row[:] = *place, seen
    inside_K = inside(points_K3, size_hw)
    outside = [name for name, (_, _, seen), here in zip(joints, points_K3, inside_K, strict=True) if seen and not here]
    bounds = None if box is None else check_box(box, size_hw)
    if isinstance(bounds, str):
        defects.append(("the box is no box", bounds))
    good = bounds if isinstance(bounds, tuple) else box_around(points_K3[inside_K], size_hw)
    size = good[2] * good[3] if area is None else number(area)
    if not 0 < size < math.inf:
        defects.append(("the area is not above 0", short(area)))
        size = good[2] * good[3]
    return Checked(points_K3, good, size, defects, outside)


def check_box(box: Any, size_hw: tuple[int, int]) -> Box | str:
    """Return a box, or why it is none.

    Args:
        box: x0, y0, width, height, `Wrong`, or anything.
        size_hw: height, width of the image.
    """
    if isinstance(box, Wrong):
        return box.text
    values = [number(value) for value in box] if isinstance(box, list | tuple) else []
    if len(values) != 4 or not all(map(math.isfinite, values)):
        return f"{short(box)}; expected [x0, y0, width, height]"
    x0, y0, width, height = values
    if width <= 0 or height <= 0 or max(width, height) < 1:
        return f"{width:g} x {height:g} pixels"
    if x0 >= size_hw[1] or y0 >= size_hw[0] or x0 + width <= 0 or y0 + height <= 0:
        return f"{short(values)} is outside the image of {size_hw[1]}x{size_hw[0]} pixels"
    if max(width, height) > LARGEST * max(size_hw):
        return f"{width:g} x {height:g} pixels in an image of {size_hw[1]}x{size_hw[0]}"
    return (x0, y0, width, height)


def number(value: Any) -> float:
    """Return a number, nan for anything else, inf where it is too large for any image."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return math.nan
    if -HUGE <= value <= HUGE:
        return float(value)
    return math.inf if value > 0 else -math.inf


def inside(points_K3: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell which joints are labelled inside the image, (K,); rounding may have moved them by `SLACK`."""
    low, high = -0.5 - SLACK, np.array(size_hw[::-1], np.float32) - 0.5 + SLACK
    here_K2 = (points_K3[:, :2] >= low) & (points_K3[:, :2] <= high)
    return here_K2[:, 0] & here_K2[:, 1] & (points_K3[:, 2] > 0)


def box_around(points_K3: NDArray[np.float32], size_hw: tuple[int, int]) -> Box:
    """Return the box around the labelled joints with a margin; the whole image where they are in one place."""
    labelled = points_K3[points_K3[:, 2] > 0, :2].astype(np.float64)
    low, high = (labelled.min(0), labelled.max(0)) if len(labelled) else (np.zeros(2), np.zeros(2))
    longer = float((high - low).max())
    if longer < 1:
        return (0.0, 0.0, float(size_hw[1]), float(size_hw[0]))
    x0, y0 = (low + 0.5 - MARGIN * longer).tolist()  # coordinates are of pixel centres, boxes of rims
    width, height = (high - low + 2 * MARGIN * longer).tolist()
    return (x0, y0, width, height)


def _table(points: Any, count: int) -> list[Any] | str:
    """Return `count` triples, or what is there instead."""
    if isinstance(points, Wrong):
        return points.text
    if isinstance(points, np.ndarray):
        points = points.tolist()
    if not isinstance(points, list):
        return f"they are {short(points)}; expected {count} times x, y, visibility"
    if len(points) == count and all(isinstance(point, list | tuple) and len(point) == 3 for point in points):
        return points
    if any(isinstance(value, list | tuple | dict) for value in points) or len(points) != 3 * count:
        return f"{len(points)} values; expected {3 * count}, x, y, visibility of {count} joints"
    return [points[start : start + 3] for start in range(0, 3 * count, 3)]


def short(value: Any) -> str:
    """Return how a value is written, cut where it is long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
