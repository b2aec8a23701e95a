"""YOLO's text files with joints: a line a person. Source: docs.ultralytics.com/datasets/pose.

A line is ``class x y width height``, the box's centre and size, then K joints of D numbers (``kpt_shape: [K, D]``), all
but the visibility as shares of the image. With D = 2 a joint at 0, 0 is unlabelled. Persons of all classes are read.

Joints have the names of ``kpt_names``. Without them, 17 joints with COCO's ``flip_idx``, or none, are COCO's; others
are named by ``flip_idx``, so that a mirror swaps the right ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fna.config import DataConfig
from fna.data.pose.listing import Defect, PoseListing, PoseReader, Record
from fna.data.yolo_files import keypoint_shape, read_folder, read_settings, relative
from fna.errors import FnaError, short

COCO = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
COCO_LINKS = (
    *((0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),
    *((5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
)
COCO_FLIP = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
NAMELESS = (
    "data.yaml names no joints (kpt_names) and has no flip_idx: if some are left and some right, say which with "
    "--task.joint_pairs, or type --data.flip false --evaluate.flip_test false"
)
LAYOUT = """\
  ROOT/data.yaml              kpt_shape: [joints, 2 or 3]; names: [person]; kpt_names, flip_idx; train: images/train
  ROOT/images/train/NAME.jpg  or ROOT/train/images/, or a list ROOT/train.txt of paths below ROOT
  ROOT/labels/train/NAME.txt  lines: class x y width height, then x y (visibility) a joint, shares of the image"""


def read(root: Path, split: str, config: DataConfig) -> PoseListing:
    """List the persons of a split."""
    folder = read_folder(root, split, config, LAYOUT)
    if not folder.shape or folder.shape[1] not in (2, 3):
        raise FnaError(f"{root / 'data.yaml'} has no 'kpt_shape: [joints, 2 or 3]'; expected\n{LAYOUT}")
    joints, numbers = folder.shape
    names, links, notes = _joints(folder.settings, joints, root)
    problems: list[Defect] = []
    records: list[Record] = []
    used: list[int] = []  # images with somebody in them
    for position, (image, lines) in enumerate(zip(folder.images, folder.lines, strict=True)):
        name = relative(image, root)
        if isinstance(lines, FnaError):
            problems.append(Defect("the text file cannot be read", name, str(lines)))
            continue
        people = [(f"line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]
        used += [position] if people else []
        for who, line in people:
            read_line = _person(line, joints, numbers)
            if isinstance(read_line, str):
                problems.append(Defect("a line cannot be read", f"{name}, {who}", read_line))
                continue
            points, box = read_line
            records.append(Record(len(used) - 1, who, points, box, image_id=position + 1, id=len(records) + 1))
    paths = [folder.images[position] for position in used]
    files = [relative(path, root) for path in paths]
    notes += folder.notes
    return PoseListing(names, links, paths, files, records, (), problems, notes, sources=folder.sources, relative=True)


def _person(line: str, joints: int, numbers: int) -> tuple[list[list[float]], list[float]] | str:
    """Return joints and box of a line, in shares of the image; or what is wrong."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return f"{short(line)}; expected numbers"
    if len(values) != 5 + joints * numbers:
        return (
            f"{len(values)} numbers; expected {5 + joints * numbers}: a class, a box and {joints} x {numbers} of joints"
        )
    _, x, y, width, height, *rest = values
    return list(_points(rest, numbers)), [x - width / 2, y - height / 2, width, height]


def _points(values: Sequence[float], numbers: int) -> Iterator[list[float]]:
    for start in range(0, len(values), numbers):
        x, y, *seen = values[start : start + numbers]
        visibility = seen[0] if seen else 2 * (x != 0 or y != 0)
        yield [x, y, visibility]


def _joints(
    settings: dict[str, Any], joints: int, root: Path
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...], list[str]]:
    """Return the joints' names and the skeleton's links, and a note if data.yaml names none."""
    named, flip = settings.get("kpt_names"), settings.get("flip_idx")
    if isinstance(named, dict):  # by class
        named = next(iter(named.values()), None)
    if named is not None:
        if not isinstance(named, list) or len({str(name) for name in named}) != joints or len(named) != joints:
            raise FnaError(f"{root / 'data.yaml'}: 'kpt_names' is {short(named)}; expected {joints} different names")
        names = tuple(str(name) for name in named)
        return names, COCO_LINKS if names == COCO else (), []
    if joints == len(COCO) and flip in (None, COCO_FLIP):
        return COCO, COCO_LINKS, ["data.yaml names no joints (kpt_names): 17 are taken for COCO's"]
    if flip is None:
        return tuple(f"joint_{k}" for k in range(joints)), (), [NAMELESS]
    if not isinstance(flip, list) or sorted(map(str, flip)) != sorted(map(str, range(joints))):
        raise FnaError(f"{root / 'data.yaml'}: 'flip_idx' is {short(flip)}; expected the numbers 0 to {joints - 1}")
    names = tuple(_side(k, other) for k, other in enumerate(flip))
    return names, (), ["data.yaml names no joints (kpt_names): they are named by flip_idx"]


def _side(joint: int, other: int) -> str:
    """Return a name that tells the side of a joint that a mirror puts in another's place."""
    return f"joint_{joint}" if joint == other else f"left_{joint}" if joint < other else f"right_{other}"


def _mark(root: Path, config: DataConfig) -> str:
    """Return what makes it such a data set."""
    return "data.yaml with kpt_shape" if any(keypoint_shape(read_settings(root), root) or ()) else ""


FORMATS = {"yolo": PoseReader(read, LAYOUT, mark=_mark)}
