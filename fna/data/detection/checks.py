"""Every annotation against the rules: what is wrong with a box, what of it can be mended, and one summary of it all.

Boxes are x0, y0, x1, y1 in pixels from the image's top left corner, which is (0, 0), to its bottom right, which is
(width, height); x1 and y1 are exclusive, so a box of one pixel is 1 wide.

Annotations round, and some count pixels from 0 where their format counts from 1. So a box that reaches out of its image
by at most `SLACK` pixels is good, and is cut to the image without a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fna.data.detection.listing import (
    BAD_IMAGE,
    MISSING_IMAGE,
    UNREADABLE_IMAGE,
    Box,
    Corners,
    Flaw,
    Record,
)
from fna.errors import printable, short

SLACK = 1.0  # pixels
THINNEST = 0.01  # pixels: a box with a smaller side has no area; float32 cannot tell less apart in large images
SMALLEST_AREA, LARGEST_AREA = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)  # square pixels
SHOWN = 10  # places shown of each kind of flaw

NO_NUMBERS = "boxes without four numbers"
NOT_FINITE = "boxes with NaN or infinite numbers"
NEGATIVE = "boxes with a negative width or height"
NO_AREA = "boxes without area"
OUTSIDE = "boxes outside their image"
REACHING_OUT = f"boxes that reach out of their image by more than {SLACK:g} pixel"
BAD_AREA = "areas that are no number above 0 within the range of float32"
WRONG_SIZE = "images of another size than their annotations say"

DROPPED = "the box is left out"


@dataclass(frozen=True)
class Truth:
    """The boxes of an image.

    Attributes:
        boxes: x0, y0, x1, y1 in pixels, float32, (N, 4); each inside the image and with an area.
        labels: class ids, int64, (N,).
        crowd: whether a box stands for many things, bool, (N,).
        difficult: whether finding the thing counts neither for nor against, bool, (N,).
        area: of the thing in square pixels, float32, (N,).
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    area: NDArray[np.float32]


class Found(NamedTuple):
    """A flaw, the image it is in, and what `fix` does about it."""

    name: str
    flaw: Flaw
    mended: str


def check_record(record: Record, size_hw: tuple[int, int], problem: str | None) -> tuple[Truth | None, list[Found]]:
    """Check a record.

    Args:
        record: as the format's reader has it.
        size_hw: of the decoded image.
        problem: why the image cannot be decoded, if so.

    Returns:
        The truth, mended; None where the whole record has to be left out. And all flaws.
    """
    name = printable(record.name)
    fatal = list(record.flaws)
    if any(flaw.kind == BAD_IMAGE for flaw in fatal):
        pass  # the image that was looked for is hardly the one meant
    elif problem is not None:
        kind = UNREADABLE_IMAGE if _exists(record) else MISSING_IMAGE
        fatal.append(Flaw(kind, "", problem))
    elif record.size_hw is not None and record.size_hw != size_hw:
        said, real = (f"{w}x{h}" for h, w in (record.size_hw, size_hw))
        hint = "; turned by its EXIF orientation?" if record.size_hw == size_hw[::-1] else ""
        fatal.append(Flaw(WRONG_SIZE, "", f"said to be {said}, is {real}{hint}"))
    if fatal:
        return None, [Found(name, flaw, "the image is left out") for flaw in fatal]
    kept: list[tuple[Corners, float, Box]] = []
    flaws: list[Found] = []
    for box in record.boxes:
        corners, area, found = _check_box(box, size_hw, record.relative)
        flaws += [Found(name, flaw, mended) for flaw, mended in found]
        if corners is not None:
            kept.append((corners, area, box))
    return _truth(kept), flaws


def _check_box(
    box: Box, size_hw: tuple[int, int], relative: bool
) -> tuple[Corners | None, float, list[tuple[Flaw, str]]]:
    """Return the mended box (None: it is left out), its area, and its flaws with what was done."""
    found = []
    if box.flaw is not None:
        found.append((Flaw(box.flaw.kind, box.place, box.flaw.detail), "the box is kept" if box.keep else DROPPED))
        if not box.keep:
            return None, 0, found
    corners = _four_numbers(box.corners)
    if corners is None:
        return None, 0, [*found, (Flaw(NO_NUMBERS, box.place, short(box.corners)), DROPPED)]
    height, width = size_hw
    if relative:
        corners = (corners[0] * width, corners[1] * height, corners[2] * width, corners[3] * height)
    x0, y0, x1, y1 = corners
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    kind, cut = _judge(corners, inside, (height, width))
    if kind is not None:
        detail = f"x {x0:g} to {x1:g}, y {y0:g} to {y1:g} in {width}x{height}"
        found.append((Flaw(kind, box.place, detail), "the box is cut to the image" if cut else DROPPED))
        if not cut:
            return None, 0, found
    own = (inside[2] - inside[0]) * (inside[3] - inside[1])
    area = own if box.area is None else _number(box.area)
    if not SMALLEST_AREA <= area <= LARGEST_AREA:
        found.append((Flaw(BAD_AREA, box.place, short(box.area)), "the box's own area counts"))
        area = own
    return inside, min(area, own) if cut else area, found


def _judge(corners: Corners, inside: Corners, size_hw: tuple[int, int]) -> tuple[str | None, bool]:
    """Return what is wrong with a box, and whether cutting it to the image mends that."""
    (x0, y0, x1, y1), (height, width) = corners, size_hw
    if not all(map(math.isfinite, corners)):
        return NOT_FINITE, False
    if x1 < x0 or y1 < y0:
        return NEGATIVE, False
    if not _has_area(corners):
        return NO_AREA, False
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return OUTSIDE, False
    if not _has_area(inside):
        return NO_AREA, False
    if min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
        return REACHING_OUT, True
    return None, False


def _has_area(corners: Corners) -> bool:
    x0, y0, x1, y1 = corners
    return x1 - x0 >= THINNEST and y1 - y0 >= THINNEST


def _truth(kept: Sequence[tuple[Corners, float, Box]]) -> Truth:
    return Truth(
        np.array([corners for corners, _, _ in kept], np.float32).reshape(-1, 4),
        np.array([box.label for _, _, box in kept], np.int64),
        np.array([box.crowd for _, _, box in kept], np.bool_),
        np.array([box.difficult for _, _, box in kept], np.bool_),
        np.array([area for _, area, _ in kept], np.float32),
    )


def _four_numbers(values: Any) -> Corners | None:
    if not isinstance(values, list | tuple) or len(values) != 4:
        return None
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return None
    x0, y0, x1, y1 = map(_number, values)
    return x0, y0, x1, y1


def _number(value: Any) -> float:
    """Return a number; NaN for anything else, infinity for a whole number too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def summarise(where: str, found: Iterable[Found], total: int) -> str:
    """Return one message about all flaws of a split: how many of each kind, and where.

    Args:
        where: what to call the split.
        found: the flaws.
        total: number of images.
    """
    kinds: dict[str, list[Found]] = {}
    for item in found:
        kinds.setdefault(item.flaw.kind, []).append(item)
    images = len({item.name for items in kinds.values() for item in items if item.name})
    lines = [f"{where}: {images} of {total} images have bad annotations, or are bad themselves:"]
    for kind, items in sorted(kinds.items(), key=lambda pair: -len(pair[1])):
        lines.append(f"  {kind}: {len(items)}")
        lines += [f"    {place(item)}" for item in items[:SHOWN]]
        if len(items) > SHOWN:
            lines.append(f"    ... and {len(items) - SHOWN} more")
    return "\n".join(
        [
            *lines,
            "mend them, or type --data.on_error fix to cut boxes to their image and leave bad boxes out, or "
            "--data.on_error skip to leave out the images",
        ]
    )


def place(found: Found) -> str:
    """Return where a flaw is, and what is wrong there."""
    name, flaw, _ = found
    return ", ".join(part for part in (name, flaw.place) if part) + (f": {flaw.detail}" if flaw.detail else "")


def _exists(record: Record) -> bool:
    try:
        return record.path.exists()
    except (OSError, ValueError):
        return False
