"""YOLO's polygons, a text file an image, drawn as masks. Source: docs.ultralytics.com/datasets/segment.

What no polygon covers is the background. With ``data.classes`` these are the classes beside it, and polygons of others
are background, too.
"""

from __future__ import annotations

from pathlib import Path

from fna.config import SegmentationDataConfig
from fna.data.listing import Legend, Listing, Reader, palette
from fna.data.segmentation.legend import read_legend
from fna.data.segmentation.polygons import Polygons
from fna.data.yolo_files import has_polygons, keypoint_shape, read_folder, read_settings, relative, yolo_mark
from fna.errors import FnaError, nearest

LAYOUT = """\
  ROOT/data.yaml              names: [cat, dog], or data.classes in the order of the numbers; train: images/train
  ROOT/images/train/NAME.jpg  or ROOT/train/images/, or a list ROOT/train.txt of paths below ROOT
  ROOT/labels/train/NAME.txt  lines: class x y x y x y ..., shares of the image; the rest is background"""


def read(root: Path, split: str, config: SegmentationDataConfig) -> Listing:
    """List a split of a YOLO folder with polygons."""
    folder = read_folder(root, split, config, LAYOUT)
    if folder.shape and folder.shape[0]:
        raise FnaError(f"{root / 'data.yaml'} has kpt_shape: its lines are joints, not polygons; expected\n{LAYOUT}")
    names = folder.names if folder.names is not None else list(config.classes or ())
    chosen = list(config.classes) if config.classes and not config.labels else names
    for name in chosen:
        if name not in names:
            raise FnaError(f"data.classes has '{name}'{nearest(name, names)}, which {root / 'data.yaml'} has not")
    classes = ("background" if "background" not in chosen else "(nothing)", *chosen)
    labels = {0: 0} | {n: classes.index(name) if name in chosen else 0 for n, name in enumerate(names, 1)}
    published = Legend(classes, palette(len(classes)), labels)
    legend = read_legend(config if config.labels else config.model_copy(update={"classes": None}), (), published)
    files = tuple(relative(path, root) for path in folder.images)
    return Listing(files, legend, Polygons(folder.images, folder.labels), folder.sources, learned=split == config.train)


def _mark(root: Path, config: SegmentationDataConfig) -> str:
    """Return what makes it such a data set."""
    mark = yolo_mark(root)
    if not mark or any(keypoint_shape(read_settings(root), root) or ()):
        return ""
    return f"{mark} and polygons" if has_polygons(root) else ""


FORMATS = {"yolo": Reader(read, LAYOUT, mark=_mark)}
