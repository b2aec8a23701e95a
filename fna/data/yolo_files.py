"""YOLO's folders, as detection, pose and segmentation find and open them: data.yaml, images, and a text file for each.

``path`` in data.yaml counts if it is a folder in ROOT: images are looked for there, then in ROOT. A place that it names
for a split has to be there; only a split without one is looked for in the usual places. Source:
docs.ultralytics.com/datasets.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from fna.config import DataConfig
from fna.config.strict_yaml import parse_yaml
from fna.data.listing import refuse_outside, split_lines
from fna.data.places import ENDINGS, WHOLE, MissingSplitError, split_names, walk
from fna.data.stamps import Sources, Watched
from fna.errors import FnaError, nearest, short
from fna.files import read_text

MANY = 1000  # text files that are looked through for one with lines
IMAGES = rf".*({'|'.join(map(re.escape, ENDINGS))})"


@dataclass(frozen=True)
class YoloSplit:
    """The files of a split.

    Attributes:
        names: of the classes by number; None: data.yaml says none.
        images: in the order of the list, or sorted.
        labels: the text file of each image, which may not be there.
        lines: of each text file; or why it cannot be read.
        shape: ``kpt_shape``, joints and numbers a joint; (0, 0): lines have none; None: nothing is said.
        settings: all of data.yaml.
        notes: remarks on images without text and on texts without image.
        sources: what was read.
    """

    names: list[str] | None
    images: list[Path]
    labels: list[Path]
    lines: list[list[str] | FnaError]
    shape: tuple[int, int] | None
    settings: dict[str, Any]
    notes: tuple[str, ...]
    sources: Sources


def read_folder(root: Path, split: str, config: DataConfig, layout: str) -> YoloSplit:
    """Find and read the files of a split.

    Args:
        root: the data set's folder.
        split: its name, or `WHOLE`.
        config: the settings.
        layout: what an error message shows as expected.

    Raises:
        FnaError: there is no such split, nothing names the classes, or no image has a text file.
    """
    settings = read_settings(root)
    names = _names(settings, root)
    if names is None and config.classes is None:
        raise FnaError(
            f"{root} has no data.yaml with 'names'; write one, or name the classes in data.classes\n{layout}"
        )
    sources = Sources([root / "data.yaml"])
    images = _images(root, split, settings, config, sources, layout)
    refuse_outside([*images, *sources.files], root, config, f"files of '{split}'")
    labels = [_label_file(path, root) for path in images]
    if not any(map(os.path.exists, labels)):
        raise FnaError(
            f"none of the {len(images)} images of '{split}' has a text file, e.g. {labels[0]}; expected\n{layout}"
        )
    sources.files.extend(labels)
    lines, notes = [read_lines(label) for label in labels], _notes(root, images, labels)
    return YoloSplit(names, images, labels, lines, keypoint_shape(settings, root), settings, notes, sources)


def keypoint_shape(settings: dict[str, Any], root: Path) -> tuple[int, int] | None:
    """Return ``kpt_shape``: joints, and numbers a joint; (0, 0): there are none; None: nothing is said."""
    if "kpt_shape" not in settings:
        return None
    shape = settings["kpt_shape"]
    if shape in (None, []):
        return 0, 0
    if isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape):
        return shape[0], shape[1]
    raise FnaError(
        f"{root / 'data.yaml'}: 'kpt_shape' is {short(shape)}; expected [joints, numbers a joint], e.g. [17, 3], or [] "
        "where lines are boxes and polygons"
    )


def read_settings(root: Path) -> dict[str, Any]:
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


def _images(
    root: Path, split: str, settings: dict[str, Any], config: DataConfig, sources: Sources, layout: str
) -> list[Path]:
    """Return the images of a split: those of a folder sorted, those of a list in its order; note the sources."""
    bases, folder = _bases(root, settings), config.image_folder
    if split == WHOLE:
        places = [folder or "images", "."]
    elif folder is not None:
        places = [f"{folder}/{split}", folder]
    elif settings.get(split) is not None:
        return _said_images(root, split, settings[split], bases, sources, config, layout)
    else:
        usual = [f"images/{split}", f"images/{split}2017", f"{split}/images", f"{split}.txt"]
        usual += [place for other in split_names(split)[1:] for place in (f"images/{other}", f"{other}/images")]
        places = [posixpath.normpath(f"{base}/{place}") for base in bases for place in usual]
    images = _first_images(root, places, bases, sources, layout)
    if not images:
        raise MissingSplitError(f"no images of '{split}' in {', '.join(places)} below {root}; expected\n{layout}")
    return images


def _said_images(
    root: Path, split: str, said: Any, bases: Sequence[str], sources: Sources, config: DataConfig, layout: str
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
        found = _first_images(root, places, bases, sources, layout)
        if not found:
            base = root / bases[0]
            folders = [relative(Path(parent, name), base) for parent, names, _ in os.walk(base) for name in names]
            raise FnaError(
                f"{where} names {short(place)}{nearest(place, folders)}, but no images are there; looked, from "
                f"{root}, in {', '.join(map(short, places))}; correct data.yaml, or delete '{split}' from it to have "
                f"the usual places searched\n{layout}"
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


def _first_images(root: Path, places: Sequence[str], bases: Sequence[str], sources: Sources, layout: str) -> list[Path]:
    """Return the images of the first place that has any: a folder, or a list of paths; note which it is."""
    for place in places:
        path = root / place
        if os.path.isfile(path):
            sources.files.append(path)
            return [_listed(root, line, bases) for _, line in split_lines(path, layout)]
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


def read_lines(file: Path) -> list[str] | FnaError:
    """Return the lines of a text file, none where there is no file; or why it cannot be read."""
    try:
        return read_text(file).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        return FnaError(short(getattr(error, "strerror", None) or str(error)))


def _notes(root: Path, images: Sequence[Path], labels: Sequence[Path]) -> tuple[str, ...]:
    """Return remarks on images without a text file, which may be meant, and on text files without an image."""
    notes = []
    bare = [image for image, label in zip(images, labels, strict=True) if not os.path.exists(label)]
    if bare:
        notes.append(f"{len(bare)} of {len(images)} images have no text file, e.g. {short(relative(bare[0], root))}")
    folders = {image.parent for image in images}
    others = {label.parent for label in labels} - folders  # beside images, a text may be anything
    texts = {file for folder in others for file in _files(folder, (".txt",), False)}
    # the images of other splits may be in the same folders; classes.txt is what many programs write the names to
    owned = {_label_file(image, root) for folder in folders for image in _files(folder, ENDINGS, False)}
    alone = sorted(file for file in texts - owned if file.name != "classes.txt")
    if alone:
        notes.append(f"{len(alone)} of {len(texts)} text files have no image, e.g. {short(relative(alone[0], root))}")
    return tuple(notes)


def relative(path: Path, root: Path) -> str:
    """Return what a file is called: its path from the root, else its name."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def has_polygons(root: Path) -> bool | None:
    """Tell whether the first text file with lines has polygons, more than two corners in each; None: there is none."""
    for file in islice(walk(root, (".txt",)), MANY):
        if file.parent == root or file.name == "classes.txt":
            continue
        lines = read_lines(file)
        words = [line.split() for line in lines if line.strip()] if isinstance(lines, list) else []
        if words:
            return all(len(line) > 6 and len(line) % 2 == 1 for line in words)
    return None


def yolo_mark(root: Path) -> str:
    """Return what makes a folder a data set of YOLO's."""
    if (root / "data.yaml").is_file():
        return "data.yaml"
    labels = next(walk(root / "labels", (".txt",)), None)
    return labels.relative_to(root).as_posix() if labels and (root / "images").is_dir() else ""
