"""Leeds Sports Pose and its extended training set: a MATLAB file with the joints of one person an image.

Both count pixels from 1, so one is taken off. LSP's array is 3 x 14 x images: every joint has a place, and a third
value of 1 where it is hidden. The extended set's is 14 x 3 x images, where 0 says that the joint has no place. Of LSP
the first half of the images is to learn from, the second to score on (``test``), as its authors have it; the extended
set is ``train``. For validation, see ``data.split``. Source: Johnson and Everingham, BMVC 2010 and CVPR 2011; their
README.txt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fna.config import DataConfig
from fna.data.places import WHOLE, MissingSplitError, files
from fna.data.pose import mpii_mat
from fna.data.pose.checks import number
from fna.data.pose.listing import Defect, PoseListing, PoseReader, Record
from fna.data.stamps import Sources
from fna.errors import FnaError

JOINTS = (
    *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
    *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
    *("neck", "head_top"),
)
LINKS = (
    *((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 12)),
    *((12, 9), (9, 10), (10, 11), (12, 13), (8, 2), (9, 3)),
)
NAME = "joints.mat"
IMAGE = re.compile(r"im0*(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
LAYOUT = """\
  ROOT/joints.mat      'joints': 3 x 14 x images (LSP: 'train' and 'test') or 14 x 3 x images (extended: 'train')
  ROOT/images/im*.jpg  or data.image_folder; needs SciPy: pip install '.[mat]'"""


def read(root: Path, split: str, config: DataConfig) -> PoseListing:
    """List the persons of a split."""
    path = root / NAME
    if not path.is_file():
        raise FnaError(f"there is no {path}; expected\n{LAYOUT}")
    people = _people(path)
    chosen = _split(len(people), split, path)
    folder = root / (config.image_folder or "images")
    images = {int(found[1]): image for image in files(folder) if (found := IMAGE.fullmatch(image.name))}
    if not images:
        raise FnaError(f"there is no image im*.jpg in {folder}; expected\n{LAYOUT}")
    there = [position for position in chosen if position + 1 in images]
    lost = [position + 1 for position in chosen if position + 1 not in images]
    problems = [Defect("there is no such image", f"im{one:05d}.jpg", f"person {one} of {path.name}") for one in lost]
    paths = [images[position + 1] for position in there]
    records = [
        Record(place, f"person {position + 1}", people[position], None, None, None, position + 1, position + 1)
        for place, position in enumerate(there)
    ]
    names = [image.name for image in paths]
    return PoseListing(JOINTS, LINKS, paths, names, records, (), problems, sources=Sources([path]))


def _people(path: Path) -> list[list[list[float]]]:
    """Return x, y, visibility of every person's joints, in pixels from 0."""
    joints: Any = mpii_mat.load(path).get("joints")
    shape = tuple(getattr(joints, "shape", ()))
    if len(shape) != 3 or shape[:2] not in ((3, len(JOINTS)), (len(JOINTS), 3)):
        raise FnaError(f"{path} has 'joints' of the shape {shape}; expected\n{LAYOUT}")
    if shape[0] == 3:
        return [[_joint(x, y, 1 if hidden else 2) for x, y, hidden in person] for person in joints.T.tolist()]
    people_N14x3 = joints.T.swapaxes(1, 2)
    return [[_joint(x, y, 2 if seen else 0) for x, y, seen in person] for person in people_N14x3.tolist()]


def _joint(x: Any, y: Any, visibility: int) -> list[float]:
    return [number(x) - 1, number(y) - 1, visibility] if visibility else [0.0, 0.0, 0]


def _split(count: int, split: str, path: Path) -> Sequence[int]:
    """Return the positions of a split's persons."""
    own = {WHOLE: range(count), "train": range(count)}
    if mpii_mat.load(path)["joints"].shape[0] == 3:
        own |= {"train": range(count // 2), "test": range(count // 2, count)}
    if split not in own:
        known = ", ".join(sorted({*own} - {WHOLE}))
        raise MissingSplitError(f"{path} has no split '{split}', but {known}; expected\n{LAYOUT}")
    return own[split]


def _mark(root: Path, config: DataConfig) -> str:
    """Return what makes it such a data set."""
    return NAME if (root / NAME).is_file() else ""


FORMATS = {"lsp": PoseReader(read, LAYOUT, mark=_mark)}
