"""Your own data: a folder of images, a folder of masks of the same names, and a text file per split."""

from __future__ import annotations

import os
from pathlib import Path

from fna.config import SegmentationDataConfig
from fna.data.listing import IGNORE, Listing, Pairs, Reader, class_labels, palette, require_dir, split_lines
from fna.data.stamps import Sources
from fna.errors import FnaError

LAYOUT = """\
  ROOT/train.txt, ROOT/val.txt   lines: NAME or NAME.jpg
  ROOT/images/NAME.jpg           or any other image format
  ROOT/masks/NAME.png            label = position in data.classes; 255 or data.ignore_label = ignore"""


def read(root: Path, split: str, config: SegmentationDataConfig) -> Listing:
    """List a split of an images/ masks/ folder pair; the classes come from the configuration."""
    if config.classes is None or not 2 <= len(config.classes) <= IGNORE - 2:
        given = "none" if config.classes is None else len(config.classes)
        raise FnaError(
            f"data.classes names {given} classes; expected 2 to {IGNORE - 2} in the order of the label values, "
            "e.g. --data.classes '[background, leaf]'"
        )
    twice = sorted({name for name in config.classes if config.classes.count(name) > 1})
    if twice:
        raise FnaError(f"data.classes has '{twice[0]}' more than once; expected a different name for each class")
    file = root / f"{split}.txt"
    lines = split_lines(file, LAYOUT)
    image_files = _index(require_dir(root / "images", LAYOUT))
    mask_files = _index(require_dir(root / "masks", LAYOUT))
    names = [_find(line, image_files) or line for _, line in lines]
    stems = [os.path.splitext(name)[0] for name in names]
    images = [Path(f"{root}/images/{name}") for name in names]
    masks = [Path(f"{root}/masks/{_find(stem, mask_files) or stem + '.png'}") for stem in stems]
    labels = class_labels(len(config.classes), IGNORE, config.ignore_label)
    colors, pairs = palette(len(config.classes)), Pairs(images, masks)
    return Listing(tuple(names), config.classes, colors, labels, pairs, Sources([file]))


def _index(folder: Path) -> dict[str, list[str]]:
    """Return the files below a folder, as relative paths, by that path and by that path without its ending."""
    paths = [
        Path(parent, name).relative_to(folder).as_posix() for parent, _, names in os.walk(folder) for name in names
    ]
    files: dict[str, list[str]] = {}
    for path in sorted(paths):
        files.setdefault(os.path.splitext(path)[0], []).append(path)
    return files | {path: [path] for path in paths}


def _find(name: str, files: dict[str, list[str]]) -> str | None:
    """Return the file a name stands for, if there is one."""
    found = files.get(name, [])
    if len(found) > 1:
        raise FnaError(f"'{name}' may be {' or '.join(found)}; keep one of them")
    return found[0] if found else None


FORMATS = {"folder": Reader(read, LAYOUT)}
