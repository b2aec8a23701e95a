"""Your own data: a folder of images, a folder of masks of the same names, and a text file per split."""

from __future__ import annotations

import os
from pathlib import Path

from fna.config import SegmentationDataConfig
from fna.data.decoding import only_images
from fna.data.listing import Listing, Pairs, Reader, require_dir, split_lines
from fna.data.segmentation.legend import read_legend
from fna.data.stamps import Sources
from fna.errors import FnaError

LAYOUT = """\
  ROOT/train.txt, ROOT/val.txt   lines: NAME or NAME.jpg
  ROOT/images/NAME.jpg           or any other image format
  ROOT/masks/NAME.png            label = position in data.classes, or as data.labels says; data.ignore_label, else
                                 255 = ignore"""


def read(root: Path, split: str, config: SegmentationDataConfig) -> Listing:
    """List a split of an images/ masks/ folder pair; the classes come from the configuration."""
    file = root / f"{split}.txt"
    lines = split_lines(file, LAYOUT)
    image_files = _index(require_dir(root / "images", LAYOUT))
    mask_files = _index(require_dir(root / "masks", LAYOUT))
    names = [_find(line, image_files) or line for _, line in lines]
    stems = [os.path.splitext(name)[0] for name in names]
    images = [Path(f"{root}/images/{name}") for name in names]
    masks = [Path(f"{root}/masks/{_find(stem, mask_files) or stem + '.png'}") for stem in stems]
    legend = read_legend(config, masks)
    return Listing(
        tuple(names), legend, Pairs(images, masks, legend.colored), Sources([file]), learned=split == config.train
    )


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
