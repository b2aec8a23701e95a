"""YOLO's text files: one an image, a line a box. Source: docs.ultralytics.com/datasets/detect.

A line is ``class x y width height``: the box's centre and size as shares of the image's width and height. A line with
more, an even number of coordinates, is a polygon; its box counts. An image without a text file, or with an empty one,
has no boxes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fna.config import DataConfig
from fna.data.detection.checks import short
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
from fna.data.listing import split_lines
from fna.errors import FnaError
from fna.strict_yaml import parse_yaml

LAYOUT = """\
  ROOT/data.yaml              names: [cat, dog]; or data.classes in the order of the numbers
  ROOT/images/train/NAME.jpg  or ROOT/train/images/, or a list ROOT/train.txt of paths below ROOT
  ROOT/labels/train/NAME.txt  lines: class x y width height, shares of the image; absent: nothing to be found"""
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm")


def read(root: Path, split: str, config: DataConfig) -> DetectionListing:
    """List a split of a YOLO folder."""
    settings = _settings(root)
    known = _names(settings, root)
    if known is None and config.classes is None:
        raise FnaError(
            f"{root} has no data.yaml with 'names'; write one, or name the classes in data.classes\n{LAYOUT}"
        )
    if config.classes is not None:
        check_classes(config.classes)
    names = known if known is not None else list(config.classes or ())
    classes = choose_classes(names, config.classes, f"{root / 'data.yaml'}")
    paths = _images(root, split, settings, config.image_folder)
    labels = [_label_file(path, root) for path in paths]
    if not any(label.exists() for label in labels):
        raise FnaError(
            f"none of the {len(paths)} images of '{split}' has a text file, e.g. {labels[0]}; expected\n{LAYOUT}"
        )
    records = [
        _record(_relative(path, root), path, number, label, names, classes)
        for number, (path, label) in enumerate(zip(paths, labels, strict=True), 1)
    ]
    ids = tuple(names.index(name) + 1 for name in classes)
    return DetectionListing(tuple(records), classes, ids)


def _settings(root: Path) -> dict[str, Any]:
    """Return what data.yaml says; nothing if there is none."""
    path = root / "data.yaml"
    try:
        settings = parse_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FnaError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(settings, dict):
        raise FnaError(f"{path} holds {short(settings)}; expected 'names: [cat, dog]'")
    return settings


def _names(settings: dict[str, Any], root: Path) -> list[str] | None:
    """Return the class names by number, from a list or a mapping."""
    names = settings.get("names")
    if names is None:
        return None
    values = names
    if isinstance(names, dict):
        values = [names.get(number) for number in range(len(names))]
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(name, str | int | float) and not isinstance(name, bool) for name in values)
        or len({str(name) for name in values}) < len(values)
    ):
        raise FnaError(
            f"{root / 'data.yaml'}: 'names' is {short(names)}; expected different names, as a list or by number from 0"
        )
    return [str(name) for name in values]


def _images(root: Path, split: str, settings: dict[str, Any], folder: str | None) -> list[Path]:
    """Return the images of a split, sorted, or in the order of its list."""
    places = [f"images/{split}", f"images/{split}2017", f"{split}/images", f"{split}.txt"]
    said = settings.get(split)
    if isinstance(said, str):  # relative to some other folder in many files
        places = [said, *[said.removeprefix("../")][: said.startswith("../")], *places]
    if folder is not None:
        places = [f"{folder}/{split}", folder]
    for place in places:
        path = root / place
        try:
            if path.is_dir():
                files = sorted(Path(parent, name) for parent, _, names in os.walk(path) for name in names)
                images = [file for file in files if file.suffix.lower() in ENDINGS]
                if images:
                    return images
            elif path.is_file():
                lines = [line for _, line in split_lines(path, LAYOUT)]
                return [_listed(root, line) for line in lines]
        except (OSError, ValueError):
            continue
    raise FnaError(f"no images of '{split}' in {', '.join(places)} below {root}; expected\n{LAYOUT}")


def _listed(root: Path, line: str) -> Path:
    """Return the path a list means; of somebody else's absolute path, what follows 'images' counts."""
    path = PurePosixPath(line)
    if path.is_absolute() and not line.startswith(str(root)):
        parts = path.parts
        start = max((i for i, part in enumerate(parts) if part == "images"), default=0)
        path = PurePosixPath(*parts[start:])
    return root / path


def _label_file(image: Path, root: Path) -> Path:
    """Return the text file of an image: 'labels' in place of the last folder 'images', or else beside it."""
    parts = list(image.parts)
    depth = len(root.parts)
    for position in range(len(parts) - 2, depth - 1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return Path(os.path.splitext(Path(*parts))[0] + ".txt")


def _record(name: str, path: Path, number: int, file: Path, names: Sequence[str], classes: Sequence[str]) -> Record:
    """Read a text file."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        lines = []
    except (OSError, ValueError) as error:
        detail = short(getattr(error, "strerror", None) or str(error))
        return Record(name, path, number, flaws=(Flaw(BAD_FILE, file.name, detail),))
    boxes = [_box(line, f"line {i}", names, classes) for i, line in enumerate(lines, 1) if line.strip()]
    return Record(name, path, number, tuple(box for box in boxes if box is not None), relative=True)


def _box(line: str, place: str, names: Sequence[str], classes: Sequence[str]) -> Box | None:
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
    if len(values) == 4:
        x, y, width, height = values
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[::2], values[1::2]
        finite = all(map(math.isfinite, values))  # min and max pass over a NaN
        corners = (min(xs), min(ys), max(xs), max(ys)) if finite else (math.nan,) * 4
    else:
        return _bad(place, UNREADABLE_BOX, f"{len(values) + 1} numbers; expected 5: class x y width height")
    return Box(place, corners, classes.index(name))


def _bad(place: str, kind: str, detail: str) -> Box:
    return Box(place, None, -1, flaw=Flaw(kind, place, detail))


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


FORMATS = {"yolo": DetectionReader(read, LAYOUT)}
