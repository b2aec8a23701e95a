"""Cityscapes, 19 classes by train id. Source: cityscapes-dataset.com; ids as in cityscapesScripts, labels.py."""

from __future__ import annotations

from pathlib import Path

from fna.config import SegmentationDataConfig
from fna.data.listing import IGNORE, Color, Legend, Listing, Pairs, Reader, require_dir
from fna.data.segmentation.legend import read_legend
from fna.data.stamps import Sources, Watched
from fna.errors import FnaError

CLASSES: dict[str, tuple[int, Color]] = {  # in the order of the train ids: label id, colour
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
LABEL_IDS = 34
IMAGES = r"[^/]+/[^/]*_leftImg8bit\.[^/]*"  # below a split's folder

LAYOUT = """\
  ROOT/leftImg8bit/train/CITY/NAME_leftImg8bit.png
  ROOT/gtFine/train/CITY/NAME_gtFine_labelIds.png (0..33) or NAME_gtFine_labelTrainIds.png (0..18, 255 = ignore)"""


def read(root: Path, split: str, config: SegmentationDataConfig) -> Listing:
    """List a split of Cityscapes; train ids are read where they exist, else label ids are translated."""
    image_dir = require_dir(root / "leftImg8bit" / split, LAYOUT)
    mask_dir = require_dir(root / "gtFine" / split, LAYOUT)
    images = sorted(image_dir.glob("*/*_leftImg8bit.*"))
    if not images:
        raise FnaError(f"{image_dir} has no image CITY/*_leftImg8bit.png; expected\n{LAYOUT}")
    by_train_id = next(mask_dir.glob("*/*_gtFine_labelTrainIds.png"), None) is not None
    kind = "labelTrainIds" if by_train_id else "labelIds"
    stems = [path.name.rpartition("_leftImg8bit")[0] for path in images]
    masks = [
        mask_dir / path.parent.name / f"{stem}_gtFine_{kind}.png" for path, stem in zip(images, stems, strict=True)
    ]
    if by_train_id:
        labels = {train_id: train_id for train_id in range(len(CLASSES))} | {IGNORE: IGNORE}
    else:
        train_ids = {label_id: train_id for train_id, (label_id, _) in enumerate(CLASSES.values())}
        labels = {label_id: train_ids.get(label_id, IGNORE) for label_id in range(LABEL_IDS)}
    colors = tuple(color for _, color in CLASSES.values())
    legend = read_legend(config, masks, Legend(tuple(CLASSES), colors, labels))
    names, sources = tuple(path.name for path in images), Sources(folders=[Watched(image_dir, IMAGES)])
    return Listing(names, legend, Pairs(images, masks, legend.colored), sources, learned=split == config.train)


def _mark(root: Path, config: SegmentationDataConfig) -> str:
    """Return what makes it such a data set."""
    return "leftImg8bit/ and gtFine/" if (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir() else ""


FORMATS = {"cityscapes": Reader(read, LAYOUT, mark=_mark)}
