"""YOLO's text files: a line a box. Source: docs.ultralytics.com/datasets/detect.

A line is ``class x y width height``: the box's centre and size as shares of the image's width and height. If data.yaml
has ``kpt_shape: [K, D]``, K joints of D numbers follow, which are left alone. If not, a line with more, an even number
of coordinates, is a polygon; its box counts. Where all lines of a split may as well be boxes with joints or other
columns behind them, they are refused: ``kpt_shape`` decides. An image without a text file, or with an empty one, has no
boxes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from fna.config import DataConfig
from fna.data.detection.listing import (
    BAD_FILE,
    UNKNOWN_CLASS,
    UNREADABLE_BOX,
    Box,
    DetectionListing,
    DetectionReader,
    Flaw,
    Record,
    check_classes,
    choose_classes,
)
from fna.data.yolo_files import YoloSplit, read_folder, relative, yolo_mark
from fna.errors import FnaError, short

LAYOUT = """\
  ROOT/data.yaml              names: [cat, dog], or data.classes in the order of the numbers; train: images/train
  ROOT/images/train/NAME.jpg  or ROOT/train/images/, or a list ROOT/train.txt of paths below ROOT
  ROOT/labels/train/NAME.txt  lines: class x y width height, shares of the image; absent: nothing to be found"""


def read(root: Path, split: str, config: DataConfig) -> DetectionListing:
    """List a split of a YOLO folder."""
    if config.classes is not None:
        check_classes(config.classes)
    folder = read_folder(root, split, config, LAYOUT)
    names = folder.names if folder.names is not None else list(config.classes or ())
    classes = choose_classes(names, config.classes, f"{root / 'data.yaml'}")
    if folder.shape is None:
        _refuse_ambiguous(folder, root)
    columns = None if folder.shape is None else folder.shape[0] * folder.shape[1]
    records = [
        _record(
            relative(path, root), path, number, content, lambda line, place: _box(line, place, names, classes, columns)
        )
        for number, (path, content) in enumerate(zip(folder.images, folder.lines, strict=True), 1)
    ]
    ids = tuple(names.index(name) + 1 for name in classes)
    notes = (*folder.notes, *_polygons(folder, columns))
    return DetectionListing(tuple(records), classes, ids, notes=notes, sources=folder.sources)


def _polygons(folder: YoloSplit, columns: int | None) -> list[str]:
    """Return a remark on polygons, whose boxes count."""
    lines = [line.split() for content in folder.lines if isinstance(content, list) for line in content]
    found = 0 if columns else sum(len(words) > 6 and len(words) % 2 == 1 for words in lines)
    return [f"{found} of {len(lines)} lines are polygons: the boxes around them count"] if found else []


def _record(
    name: str, path: Path, number: int, lines: list[str] | FnaError, box_of: Callable[[str, str], Box | None]
) -> Record:
    """Read the lines of a text file."""
    if isinstance(lines, FnaError):
        return Record(name, path, number, flaws=(Flaw(BAD_FILE, f"{path.stem}.txt", str(lines)),))
    boxes = [box_of(line, f"line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    return Record(name, path, number, tuple(box for box in boxes if box is not None), relative=True)


def _refuse_ambiguous(folder: YoloSplit, root: Path) -> None:
    """Refuse a split whose longer lines are all polygons of one length that are boxes with more behind them as well."""
    long: list[list[float]] = []
    first = ""
    for file, content in zip(folder.labels, folder.lines, strict=True):
        for number, line in enumerate([] if isinstance(content, FnaError) else content, 1):
            words = line.split()
            if len(words) > 6 and len(words) % 2 == 1:
                try:
                    long.append([float(word) for word in words[1:]])
                except ValueError:
                    return  # no line of numbers: the checks will name it
                first = first or f"{relative(file, root)}, line {number}: {short(line)}"
    if long and len({len(values) for values in long}) == 1 and all(map(_is_box_with_more, long)):
        more = len(long[0]) - 4
        raise FnaError(
            f"lines of {len(long[0]) + 1} numbers ({first}) may be polygons, or boxes with {more} more columns, such "
            f"as joints; say which in {root / 'data.yaml'}: 'kpt_shape: [{more // 2}, 2]' for boxes, "
            "'kpt_shape: []' for polygons"
        )


def _is_box_with_more(values: Sequence[float]) -> bool:
    """Tell whether numbers may be a box in the image, and behind it points in the box, or two columns of any kind."""
    x, y, width, height = values[:4]
    near = 0.01 + 0.1 * max(width, height)  # joints may be a little outside
    inside = width > 0 and height > 0 and min(x - width / 2, y - height / 2) > -0.01
    if not inside or max(x + width / 2, y + height / 2) > 1.01:
        return False
    points = list(zip(values[4::2], values[5::2], strict=True))
    if len(points) == 1:
        return True
    seen = [(px, py) for px, py in points if (px, py) != (0, 0)]  # 0, 0: a joint that is not there
    return all(abs(px - x) <= width / 2 + near and abs(py - y) <= height / 2 + near for px, py in seen)


def _box(line: str, place: str, names: Sequence[str], classes: Sequence[str], columns: int | None) -> Box | None:
    """Return a line's box; None for a class that is not to be detected."""
    try:
        number, *values = map(float, line.split())
    except ValueError:
        return _bad(place, UNREADABLE_BOX, f"{short(line)}; expected numbers: class x y width height")
    if not number.is_integer() or not 0 <= number < len(names):
        return _bad(place, UNKNOWN_CLASS, f"class {number:g}; known: 0 to {len(names) - 1}")
    name = names[int(number)]
    if name not in classes:
        return None
    if len(values) == 4 or (columns and len(values) == 4 + columns):
        x, y, width, height = values[:4]
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif not columns and len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[::2], values[1::2]
        finite = all(map(math.isfinite, values))  # min and max pass over a NaN
        corners = (min(xs), min(ys), max(xs), max(ys)) if finite else (math.nan,) * 4
    else:
        wanted = f"5, or {5 + columns} with the joints of kpt_shape" if columns else "5: class x y width height"
        return _bad(place, UNREADABLE_BOX, f"{len(values) + 1} numbers; expected {wanted}")
    return Box(place, corners, classes.index(name))


def _bad(place: str, kind: str, detail: str) -> Box:
    return Box(place, None, -1, flaw=Flaw(kind, place, detail))


def _mark(root: Path, config: DataConfig) -> str:
    """Return what makes it such a data set."""
    return yolo_mark(root)


FORMATS = {"yolo": DetectionReader(read, LAYOUT, mark=_mark)}
