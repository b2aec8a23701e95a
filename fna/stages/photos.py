"""The images that a finished network is to label: found, in order, named and numbered."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fna.data.places import ENDINGS, files, walk
from fna.errors import FnaError, nearest, quoted

COCO_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})")  # of an image's file, without its ending
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


def find_images(given: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the images of a folder, a pattern or a file, or of several of these; frame 2 stands before frame 10.

    A folder that has no image itself stands for all in the folders below it.

    Raises:
        FnaError: there is nothing, or no image.
    """
    several = [given] if isinstance(given, str | Path) else given
    found = [path for one in several for path in _images(Path(one))]
    return list(dict.fromkeys(found))


def _images(given: Path) -> list[Path]:
    if given.is_file():
        if given.suffix.lower() in VIDEOS:
            frames = quoted(given.parent / given.stem)
            raise FnaError(
                f"--images {given} is a video; cut it into frames, and give their folder: "
                f"mkdir {frames} && ffmpeg -i {quoted(given)} {frames}/%06d.png"
            )
        return [given]
    if given.is_dir():
        paths = files(given) or list(walk(given))
        if not paths:
            raise FnaError(f"no image ({' '.join(ENDINGS)}) in --images {given}")
    elif glob.has_magic(str(given)):
        matches = [Path(match) for match in glob.glob(str(given), recursive=True)]
        paths = [path for path in matches if path.suffix.lower() in ENDINGS and path.is_file()]
        if not paths:
            raise FnaError(f"no image ({' '.join(ENDINGS)}) is called like --images '{given}'")
    else:
        there = os.listdir(given.parent) if given.parent.is_dir() else []
        raise FnaError(f"--images {given} does not exist{nearest(given.name, there)}")
    return sorted(paths, key=_counted)


def _counted(path: Path) -> list[tuple[int, str]]:
    """Return what sorts names as people do: by the numbers in them.

    >>> sorted(["f10.png", "f9.png", "e.png"], key=lambda name: _counted(Path(name)))
    ['e.png', 'f9.png', 'f10.png']
    """
    return [(int(part or 0), "") if i % 2 else (0, part) for i, part in enumerate(re.split("([0-9]+)", str(path)))]


def name_images(paths: Sequence[Path]) -> dict[Path, str]:
    """Return what each image is called in results: its name, with folders where they are of several.

    >>> list(name_images([Path("a/1.jpg"), Path("a/2.jpg")]).values())
    ['1.jpg', '2.jpg']
    >>> list(name_images([Path("a/left/1.jpg"), Path("a/right/1.jpg")]).values())
    ['left/1.jpg', 'right/1.jpg']
    """
    absolute = {path: Path(os.path.abspath(path)) for path in paths}
    folders = {str(path.parent) for path in absolute.values()}
    if len({os.path.splitdrive(folder)[0] for folder in folders}) > 1:  # of several disks
        return {path: re.sub("^[/.]+", "", path.as_posix().replace(":", "")) for path in paths}
    common = os.path.commonpath(sorted(folders))
    return {path: own.relative_to(common).as_posix() for path, own in absolute.items()}


def name_files(names: Sequence[str]) -> dict[str, str]:
    """Return what files about each image are called: as it is, without its ending where this is enough.

    >>> list(name_files(["a.jpg", "b.jpg", "b.png"]).values())
    ['a', 'b.jpg', 'b.png']
    """
    stems = Counter(os.path.splitext(name)[0] for name in names)
    return {name: stem if stems[stem := os.path.splitext(name)[0]] == 1 else name for name in names}


def number_images(paths: Sequence[Path], known: Mapping[str, Any]) -> dict[Path, Any]:
    """Return what COCO's results call each image: its number if that is known, else its name.

    A number that is made up could be another image's in somebody's annotations; a name is nobody's number.

    Args:
        paths: the images.
        known: numbers of some of them, and of others, by file name. COCO's own names hold theirs.

    >>> list(number_images([Path("000000000139.jpg"), Path("cat.jpg"), Path("2.jpg")], {"cat.jpg": 7}).values())
    [139, 7, '2.jpg']
    >>> list(number_images([Path("a/1.jpg"), Path("b/1.jpg")], {"1.jpg": 7}).values())
    ['a/1.jpg', 'b/1.jpg']
    """
    named, alike, taken = name_images(paths), Counter(path.name for path in paths), set(known.values())

    def number(path: Path) -> Any:
        of_coco = COCO_NAME.fullmatch(path.stem)
        if alike[path.name] > 1:
            return named[path]
        if path.name in known:
            return known[path.name]
        return named[path] if of_coco is None or int(of_coco[1]) in taken else int(of_coco[1])

    return {path: number(path) for path in paths}
