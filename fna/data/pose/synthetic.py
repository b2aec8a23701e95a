"""Pedestrians of the synthetic street, with 14 joints."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fna.config import DataConfig
from fna.data.images import Pixels
from fna.data.pose.listing import PoseListing, PoseReader, Record
from fna.data.synthetic import JOINTS, scene

LINKS = (  # legs, arms, head and torso
    *((0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8), (9, 10), (10, 11), (12, 13)),
    *((8, 12), (9, 12), (2, 8), (3, 9), (2, 3)),
)
SCENE_HW = (240, 320)
SMALLEST = 40  # height of the box in pixels; of a smaller person, the joints are a guess
LEAST_SEEN = 8  # joints; of a person more hidden, who may be the one in front, likewise
LAYOUT = "  nothing: the images are drawn"


def read(root: Path, split: str, config: DataConfig) -> PoseListing:
    """Draw `config.images` scenes of a split and list the pedestrians that can be recognised."""
    pictures: dict[str, Pixels] = {}
    records: list[Record] = []
    for index in range(config.images):
        drawn = scene(0, split, index, SCENE_HW)
        people: list[Record] = []
        for (x0, y0, x1, y1), points_K3 in zip(drawn.boxes.tolist(), drawn.keypoints, strict=True):
            if y1 - y0 < SMALLEST or (points_K3[:, 2] == 2).sum() < LEAST_SEEN:
                continue
            points_K3[points_K3[:, 2] > 0, :2] -= 0.5  # coordinates of the scene count from the pixel's rim
            number = len(records) + len(people)
            box = (x0, y0, x1 - x0, y1 - y0)
            people.append(Record(len(pictures), f"person {number}", points_K3, box, None, None, index, number))
        if people:
            pictures[f"{split}_{index:04d}.png"] = drawn.image
            records += people
    paths = [Path(name) for name in pictures]
    return PoseListing(JOINTS, LINKS, paths, list(pictures), records, read=partial(_picture, pictures))


def _picture(pictures: dict[str, Pixels], path: Path) -> Pixels:
    return pictures[path.name]


FORMATS = {"synthetic": PoseReader(read, LAYOUT, on_disk=False)}
