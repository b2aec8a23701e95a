"""Pascal VOC segmentation: 21 classes as palette indices, 255 is void. Source: Everingham et al., IJCV 2015.

Other data in VOC's folders have the classes of ``data.classes``, read as format ``folder`` reads them.
"""

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
from fna.data.segmentation.folder import label_table
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
    names = tuple(path.name for path in images)
    pairs = Pairs(images, masks)
    own = config.classes
    if own and not set(own) <= set(VOC_CLASSES):  # somebody's own data in VOC's folders
        table, learned = label_table(config), split == config.train
        return Listing(names, own, palette(len(own)), table, pairs, Sources([file]), complete=learned)
    labels = class_labels(len(VOC_CLASSES), IGNORE, config.ignore_label)
    return Listing(names, VOC_CLASSES, palette(len(VOC_CLASSES)), labels, pairs, Sources([file]))


def _mark(root: Path, config: SegmentationDataConfig) -> str:
    """Return what makes it such a data set."""
    return "ImageSets/Segmentation/" if (root / "ImageSets" / "Segmentation").is_dir() else ""


FORMATS = {"voc": Reader(read, LAYOUT, mark=_mark)}
