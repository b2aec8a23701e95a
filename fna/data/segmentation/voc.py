"""Pascal VOC segmentation: 21 classes as palette indices, 255 is void. Source: Everingham et al., IJCV 2015.

Other data in VOC's folders have the classes of ``data.classes`` and ``data.labels``.
"""

from __future__ import annotations

from pathlib import Path

from fna.config import SegmentationDataConfig
from fna.data.listing import (
    IGNORE,
    VOC_CLASSES,
    Legend,
    Listing,
    Pairs,
    Reader,
    class_labels,
    palette,
    split_lines,
)
from fna.data.segmentation.legend import read_legend
from fna.data.stamps import Sources

LEGEND = Legend(VOC_CLASSES, palette(len(VOC_CLASSES)), class_labels(len(VOC_CLASSES), IGNORE))
CONTEXT = ("SegmentationContext", "SegmentationClassContext")  # of Pascal Context: lists and masks
LAYOUT = """\
  ROOT/ImageSets/Segmentation/train.txt   lines: NAME; of Pascal Context SegmentationContext/, with data.classes
  ROOT/JPEGImages/NAME.jpg
  ROOT/SegmentationClass/NAME.png         palette index = class, 255 = ignore; or SegmentationClassContext/"""


def read(root: Path, split: str, config: SegmentationDataConfig) -> Listing:
    """List a split of Pascal VOC."""
    context = _is_context(root)
    lists, folder = CONTEXT if context else ("Segmentation", "SegmentationClass")
    file = root / "ImageSets" / lists / f"{split}.txt"
    stems = [line for _, line in split_lines(file, LAYOUT)]
    images = [root / "JPEGImages" / f"{stem}.jpg" for stem in stems]
    masks = [root / folder / f"{stem}.png" for stem in stems]
    names, legend = tuple(path.name for path in images), read_legend(config, masks, None if context else LEGEND)
    return Listing(names, legend, Pairs(images, masks, legend.colored), Sources([file]), learned=split == config.train)


def _is_context(root: Path) -> bool:
    return not (root / "ImageSets" / "Segmentation").is_dir() and (root / "ImageSets" / CONTEXT[0]).is_dir()


def _mark(root: Path, config: SegmentationDataConfig) -> str:
    """Return what makes it such a data set."""
    if _is_context(root):
        return f"ImageSets/{CONTEXT[0]}/"
    return "ImageSets/Segmentation/" if (root / "ImageSets" / "Segmentation").is_dir() else ""


FORMATS = {"voc": Reader(read, LAYOUT, mark=_mark)}
