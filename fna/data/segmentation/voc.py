"""Pascal VOC segmentation: 21 classes as palette indices, 255 is void. Source: Everingham et al., IJCV 2015."""

from __future__ import annotations

from pathlib import Path

from fna.config import SegmentationDataConfig
from fna.data.listing import (
    IGNORE,
    VOC_CLASSES,
    Listing,
    Pairs,
    Reader,
    class_labels,
    palette,
    split_lines,
)
from fna.data.stamps import Sources

LAYOUT = """\
  ROOT/ImageSets/Segmentation/train.txt   lines: NAME
  ROOT/JPEGImages/NAME.jpg
  ROOT/SegmentationClass/NAME.png         palette index = class, 255 = ignore"""


def read(root: Path, split: str, config: SegmentationDataConfig) -> Listing:
    """List a split of Pascal VOC."""
    file = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    stems = [line for _, line in split_lines(file, LAYOUT)]
    images = [root / "JPEGImages" / f"{stem}.jpg" for stem in stems]
    masks = [root / "SegmentationClass" / f"{stem}.png" for stem in stems]
    labels = class_labels(len(VOC_CLASSES), IGNORE, config.ignore_label)
    names = tuple(path.name for path in images)
    pairs = Pairs(images, masks)
    return Listing(names, VOC_CLASSES, palette(len(VOC_CLASSES)), labels, pairs, Sources([file]))


FORMATS = {"voc": Reader(read, LAYOUT)}
