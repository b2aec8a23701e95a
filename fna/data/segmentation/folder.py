"""Your own data: a folder of images, a folder of masks of the same names, and a text file per split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fna.config import SegmentationDataConfig
from fna.data.decoding import only_images
from fna.data.listing import IGNORE, Listing, Pairs, Reader, palette, require_dir, split_lines
from fna.data.stamps import Sources
from fna.errors import FnaError

LAYOUT = """\
  ROOT/train.txt, ROOT/val.txt   lines: NAME or NAME.jpg
  ROOT/images/NAME.jpg           or any other image format
  ROOT/masks/NAME.png            label = position in data.classes, or as data.labels says; 255 or
                                 data.ignore_label = ignore"""


def read(root: Path, split: str, config: SegmentationDataConfig) -> Listing:
    """List a split of an images/ masks/ folder pair; the classes come from the configuration."""
    labels = label_table(config)
    classes = config.classes or ()
    file = root / f"{split}.txt"
    lines = split_lines(file, LAYOUT)
    image_files = _index(require_dir(root / "images", LAYOUT))
    mask_files = _index(require_dir(root / "masks", LAYOUT))
    names = [_find(line, image_files) or line for _, line in lines]
    stems = [os.path.splitext(name)[0] for name in names]
    images = [Path(f"{root}/images/{name}") for name in names]
    masks = [Path(f"{root}/masks/{_find(stem, mask_files) or stem + '.png'}") for stem in stems]
    colors, pairs = palette(len(classes)), Pairs(images, masks)
    learned = split == config.train  # in others a rare class may be missing
    return Listing(tuple(names), classes, colors, labels, pairs, Sources([file]), complete=learned)


def label_table(config: SegmentationDataConfig) -> dict[int, int]:
    """Return label value -> class id or `IGNORE`, as ``data.classes``, ``labels`` and ``ignore_label`` say.

    Raises:
        FnaError: there are no classes, too many, or two alike; or a label is of two.
    """
    if config.classes is None or not 2 <= len(config.classes) <= IGNORE - 2:
        given = "none" if config.classes is None else len(config.classes)
        raise FnaError(
            f"data.classes names {given} classes; expected 2 to {IGNORE - 2} in the order of the label values, "
            "e.g. --data.classes '[background, leaf]'"
        )
    seen: dict[str, str] = {}
    for name in config.classes:
        other = seen.setdefault(" ".join(name.casefold().split()), name)
        if other != name or config.classes.count(name) > 1:
            raise FnaError(
                f"data.classes has '{other}' and '{name}'; expected a different name for each class, in more than case "
                "and blanks"
            )
    return _labels(config.classes, config)


def _labels(classes: Sequence[str], config: SegmentationDataConfig) -> dict[int, int]:
    """Return the label table; a label that is a class's and ignored as well is refused."""
    values = config.labels if config.labels is not None else range(len(classes))
    if len(values) != len(classes) or len(set(values)) < len(values):
        raise FnaError(
            f"data.labels is {list(values)}; expected a different label for each of the {len(classes)} classes"
        )
    table = {value: class_id for class_id, value in enumerate(values)}
    if config.ignore_label in table:
        name = classes[table[config.ignore_label]]
        raise FnaError(
            f"data.ignore_label {config.ignore_label} is the label of the class '{name}', too: labels are positions in "
            f"data.classes, from 0; if those of the masks count from 1, type --data.labels "
            f"'{list(range(1, len(classes) + 1))}'; if '{name}' is no class, leave it out of data.classes, and give "
            "the labels of the others with --data.labels"
        )
    ignored = {value: IGNORE for value in (IGNORE, config.ignore_label) if value is not None}
    return {**ignored, **table}


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
    found = only_images(files.get(name, []) or files.get(name.replace("\\", "/"), []))
    if len(found) > 1:
        raise FnaError(f"'{name}' may be {' or '.join(found)}; keep one of them")
    return found[0] if found else None


def _mark(root: Path, config: SegmentationDataConfig) -> str:
    """Return what makes it such a data set."""
    parts = (f"{config.train}.txt", "images", "masks")
    return f"{parts[0]}, images/ and masks/" if all((root / part).exists() for part in parts) else ""


FORMATS = {"folder": Reader(read, LAYOUT, mark=_mark)}
