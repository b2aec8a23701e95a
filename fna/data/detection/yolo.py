"""YOLO's text files: one an image, a line a box. Source: docs.ultralytics.com/datasets/detect.

A line is ``class x y width height``: the box's centre and size as shares of the image's width and height. If data.yaml
has ``kpt_shape: [K, D]``, K joints of D numbers follow, which are left alone. If not, a line with more, an even number
of coordinates, is a polygon; its box counts. Where all lines of a split may as well be boxes with joints or other
columns behind them, they are refused: ``kpt_shape`` decides. An image without a text file, or with an empty one, has no
boxes.

``path`` in data.yaml counts if it is a folder in ROOT: images are looked for there, then in ROOT. A place that it names
for a split has to be there; only a split without one is looked for in the usual places.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from fna.config import DataConfig
from fna.config.strict_yaml import parse_yaml
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
from fna.data.listing import refuse_outside, split_lines
from fna.data.places import ENDINGS, WHOLE, MissingSplitError, split_names, walk
from fna.data.stamps import Sources, Watched
from fna.errors import FnaError, nearest
from fna.files import read_text

LAYOUT = """\
  ROOT/data.yaml              names: [cat, dog], or data.classes in the order of the numbers; train: images/train
  ROOT/images/train/NAME.jpg  or ROOT/train/images/, or a list ROOT/train.txt of paths below ROOT
  ROOT/labels/train/NAME.txt  lines: class x y width height, shares of the image; absent: nothing to be found"""
IMAGES = rf".*({'|'.join(map(re.escape, ENDINGS))})"


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
    sources = Sources([root / "data.yaml"])
    paths = _images(root, split, settings, config, sources)
    refuse_outside([*paths, *sources.files], root, config, f"files of '{split}'")
    labels = [_label_file(path, root) for path in paths]
    if not any(map(os.path.exists, labels)):
        raise FnaError(
            f"none of the {len(paths)} images of '{split}' has a text file, e.g. {labels[0]}; expected\n{LAYOUT}"
        )
    lines = [_lines(label) for label in labels]
    columns = _columns(settings, root)
    if columns is None:
        _refuse_ambiguous(lines, labels, root)
    records = [
        _record(
            _relative(path, root), path, number, content, lambda line, place: _box(line, place, names, classes, columns)
        )
        for number, (path, content) in enumerate(zip(paths, lines, strict=True), 1)
    ]
    ids = tuple(names.index(name) + 1 for name in classes)
    sources.files.extend(labels)
    return DetectionListing(tuple(records), classes, ids, notes=_notes(root, paths, labels), sources=sources)


def _settings(root: Path) -> dict[str, Any]:
    """Return what data.yaml says; nothing if there is none."""
    path = root / "data.yaml"
    try:
        settings = parse_yaml(read_text(path), str(path))
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


def _images(root: Path, split: str, settings: dict[str, Any], config: DataConfig, sources: Sources) -> list[Path]:
    """Return the images of a split: those of a folder sorted, those of a list in its order; note the sources."""
    bases, folder = _bases(root, settings), config.image_folder
    if split == WHOLE:
        places = [folder or "images", "."]
    elif folder is not None:
        places = [f"{folder}/{split}", folder]
    elif settings.get(split) is not None:
        return _said_images(root, split, settings[split], bases, sources, config)
    else:
        usual = [f"images/{split}", f"images/{split}2017", f"{split}/images", f"{split}.txt"]
        usual += [place for other in split_names(split)[1:] for place in (f"images/{other}", f"{other}/images")]
        places = [posixpath.normpath(f"{base}/{place}") for base in bases for place in usual]
    images = _first_images(root, places, bases, sources)
    if not images:
        raise MissingSplitError(f"no images of '{split}' in {', '.join(places)} below {root}; expected\n{LAYOUT}")
    return images


def _said_images(
    root: Path, split: str, said: Any, bases: Sequence[str], sources: Sources, config: DataConfig
) -> list[Path]:
    """Return the images in the place, or the places, that data.yaml names for a split."""
    where = f"{root / 'data.yaml'}: '{split}'"
    wanted = said if isinstance(said, list) else [said]
    if not wanted or not all(isinstance(place, str) and place for place in wanted):
        raise FnaError(f"{where} is {short(said)}; expected a folder or a list's file, or several: [images/a, b.txt]")
    images: list[Path] = []
    for place in wanted:
        places = _places(root, place, bases)
        there = next((root / one for one in places if os.path.exists(root / one)), root)
        refuse_outside([there], root, config, f"places of '{split}' in data.yaml")
        found = _first_images(root, places, bases, sources)
        if not found:
            base = root / bases[0]
            folders = [_relative(Path(parent, name), base) for parent, names, _ in os.walk(base) for name in names]
            raise FnaError(
                f"{where} names {short(place)}{nearest(place, folders)}, but no images are there; looked, from "
                f"{root}, in {', '.join(map(short, places))}; correct data.yaml, or delete '{split}' from it to have "
                f"the usual places searched\n{LAYOUT}"
            )
        images += found
    return images


def _bases(root: Path, settings: dict[str, Any]) -> list[str]:
    """Return the folders in ROOT that the places in data.yaml may start from: its 'path', if it is in ROOT, and ROOT.

    Data sets move: a 'path' of another machine, or to no folder in ROOT, says nothing.
    """
    base = _from_root(root, str(settings.get("path") or "."))
    inside = not base.startswith(("/", "..")) and os.path.isdir(root / base)
    return [base, "."] if inside and base != "." else ["."]


def _places(root: Path, said: str, bases: Sequence[str]) -> list[str]:
    """Return where a place that data.yaml names may be, seen from ROOT, those in ROOT first.

    Roboflow writes '../train/images' for train/images in ROOT. Of an absolute path that does not lead into ROOT, as of
    a data set that has moved, the last two folders are looked for in ROOT.
    """
    path, place = PurePosixPath(said), _from_root(root, said)
    if path.is_absolute() and not place.startswith("/"):
        return [place]
    tail = path.parts[1:][-2:] if path.is_absolute() else [part for part in path.parts if part != ".."]
    starts = [said, "/".join(tail) or said]
    places = dict.fromkeys(posixpath.normpath(posixpath.join(base, start)) for start in starts for base in bases)
    return sorted(places, key=lambda place: place.startswith(("/", "..")))


def _from_root(root: Path, said: str) -> str:
    """Return a path without detours; an absolute one into ROOT becomes one that starts there."""
    path, start = PurePosixPath(posixpath.normpath(said)), os.path.abspath(root)
    return str(path.relative_to(start) if path.is_relative_to(start) else path)


def _first_images(root: Path, places: Sequence[str], bases: Sequence[str], sources: Sources) -> list[Path]:
    """Return the images of the first place that has any: a folder, or a list of paths; note which it is."""
    for place in places:
        path = root / place
        if os.path.isfile(path):
            sources.files.append(path)
            return [_listed(root, line, bases) for _, line in split_lines(path, LAYOUT)]
        images = _files(path, ENDINGS)
        if images:
            sources.folders.append(Watched(path, IMAGES))
            return images
    return []


def _files(folder: Path, endings: Sequence[str], below: bool = True) -> list[Path]:
    """Return the files in a folder, and in those below it, that have one of some endings, sorted."""
    parents = islice(os.walk(folder), None if below else 1) if os.path.isdir(folder) else ()
    files = sorted(Path(parent, name) for parent, _, names in parents for name in names)
    return [file for file in files if file.suffix.lower() in endings]


def _listed(root: Path, line: str, bases: Sequence[str]) -> Path:
    """Return the path a list means; of somebody else's absolute path, what follows 'images' counts."""
    line = re.sub(r"^[A-Za-z]:(?=/)", "", line.replace("\\", "/")) if "\\" in line else line  # a list of Windows
    path = PurePosixPath(line)
    if path.is_absolute() and not line.startswith(str(root)):
        parts = path.parts
        start = max((i for i, part in enumerate(parts) if part == "images"), default=0)
        path = PurePosixPath(*parts[start:])
    return next((root / base / path for base in bases if os.path.exists(root / base / path)), root / path)


def _notes(root: Path, images: Sequence[Path], labels: Sequence[Path]) -> tuple[str, ...]:
    """Return remarks on images without a text file, which may be meant, and on text files without an image."""
    notes = []
    bare = [image for image, label in zip(images, labels, strict=True) if not os.path.exists(label)]
    if bare:
        notes.append(f"{len(bare)} of {len(images)} images have no text file, e.g. {short(_relative(bare[0], root))}")
    folders = {image.parent for image in images}
    others = {label.parent for label in labels} - folders  # beside images, a text may be anything
    texts = {file for folder in others for file in _files(folder, (".txt",), False)}
    # the images of other splits may be in the same folders; classes.txt is what many programs write the names to
    owned = {_label_file(image, root) for folder in folders for image in _files(folder, ENDINGS, False)}
    alone = sorted(file for file in texts - owned if file.name != "classes.txt")
    if alone:
        notes.append(f"{len(alone)} of {len(texts)} text files have no image, e.g. {short(_relative(alone[0], root))}")
    return tuple(notes)


def _label_file(image: Path, root: Path) -> Path:
    """Return the text file of an image: 'labels' in place of the last folder 'images', or beside it if only there."""
    parts = list(image.parts)
    depth = len(root.parts) if image.is_relative_to(root) else 1
    for position in range(len(parts) - 2, depth - 1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    usual, beside = (Path(os.path.splitext(path)[0] + ".txt") for path in (Path(*parts), image))
    return beside if os.path.isfile(beside) and not os.path.exists(usual) else usual


def _lines(file: Path) -> list[str] | Flaw:
    """Return the lines of a text file, none where there is no file; or why it cannot be read."""
    try:
        return read_text(file).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        return Flaw(BAD_FILE, file.name, short(getattr(error, "strerror", None) or str(error)))


def _record(
    name: str, path: Path, number: int, lines: list[str] | Flaw, box_of: Callable[[str, str], Box | None]
) -> Record:
    """Read the lines of a text file."""
    if isinstance(lines, Flaw):
        return Record(name, path, number, flaws=(lines,))
    boxes = [box_of(line, f"line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    return Record(name, path, number, tuple(box for box in boxes if box is not None), relative=True)


def _columns(settings: dict[str, Any], root: Path) -> int | None:
    """Return how many numbers follow a box, by ``kpt_shape``; 0: lines of more are polygons; None: nothing is said."""
    if "kpt_shape" not in settings:
        return None
    shape = settings["kpt_shape"]
    if shape in (None, []):
        return 0
    if isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape):
        return int(shape[0] * shape[1])
    raise FnaError(
        f"{root / 'data.yaml'}: 'kpt_shape' is {short(shape)}; expected [joints, numbers a joint], e.g. [17, 3], or [] "
        "where lines are boxes and polygons"
    )


def _refuse_ambiguous(lines: Sequence[list[str] | Flaw], labels: Sequence[Path], root: Path) -> None:
    """Refuse a split whose longer lines are all polygons of one length that are boxes with more behind them as well."""
    long: list[list[float]] = []
    first = ""
    for file, content in zip(labels, lines, strict=True):
        for number, line in enumerate([] if isinstance(content, Flaw) else content, 1):
            words = line.split()
            if len(words) > 6 and len(words) % 2 == 1:
                try:
                    long.append([float(word) for word in words[1:]])
                except ValueError:
                    return  # no line of numbers: the checks will name it
                first = first or f"{_relative(file, root)}, line {number}: {short(line)}"
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


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _mark(root: Path, config: DataConfig) -> str:
    """Return what makes it such a data set."""
    if (root / "data.yaml").is_file():
        return "data.yaml"
    labels = next(walk(root / "labels", (".txt",)), None)
    return labels.relative_to(root).as_posix() if labels and (root / "images").is_dir() else ""


FORMATS = {"yolo": DetectionReader(read, LAYOUT, mark=_mark)}
