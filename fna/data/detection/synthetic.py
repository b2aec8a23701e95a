"""Boxes around the signs, cars and pedestrians of the synthetic street; see `fna.data.synthetic`."""

from __future__ import annotations

from pathlib import Path

from fna.config import DataConfig
from fna.data.detection.listing import Box, DetectionListing, DetectionReader, Record, choose_classes
from fna.data.images import Pixels
from fna.data.synthetic import CLASSES, THINGS, scene

NAMES = tuple(list(CLASSES)[thing] for thing in THINGS)
SCENE_HW = (240, 320)
LAYOUT = "  nothing: the images are drawn"


def read(root: Path, split: str, config: DataConfig) -> DetectionListing:
    """Draw the `config.images` scenes of a split."""
    classes = choose_classes(NAMES, config.classes, "the synthetic street")
    pictures: dict[Path, Pixels] = {}
    records = []
    for index in range(config.images):
        path = Path(f"{split}_{index:04d}.png")
        drawn = scene(0, split, index, SCENE_HW)
        names = [NAMES[THINGS.index(thing)] for thing in drawn.labels.tolist()]
        boxes = tuple(
            Box(f"thing {number}", tuple(corners), classes.index(name))
            for number, (corners, name) in enumerate(zip(drawn.boxes.tolist(), names, strict=True))
            if name in classes
        )
        pictures[path] = drawn.image
        records.append(Record(path.name, path, index + 1, boxes, SCENE_HW))
    ids = tuple(THINGS[NAMES.index(name)] for name in classes)
    return DetectionListing(tuple(records), classes, ids, read=pictures.__getitem__)


FORMATS = {"synthetic": DetectionReader(read, LAYOUT, on_disk=False)}
