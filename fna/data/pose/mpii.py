"""MPII Human Pose: the json of HRNet and SimpleBaseline, or the official MATLAB file.

Both count pixels from 1, so one is taken off. A person is about 200 * scale pixels high; the box is a square of that
side, 15 * scale below the centre, and `data.box_padding` 1.25 then gives the crop that those projects use. Source:
human-pose.mpi-inf.mpg.de; github.com/leoxiaobin/deep-high-resolution-net.pytorch, lib/dataset/mpii.py.

The head's size, by which PCKh is measured, is 0.6 times the diagonal of the head's box, as in MPII's own script. The
json lacks the box. If the split's ``gt_SPLIT.mat`` lies beside it, which those projects ship, it is read from there;
else the size is the length of the segment from upper_neck to head_top, which is larger and so gives a higher score.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fna.config import DataConfig
from fna.data.coco_json import image_folder
from fna.data.pose import mpii_mat
from fna.data.pose.checks import number
from fna.data.pose.listing import Defect, PoseListing, PoseReader, Record, is_name
from fna.errors import FnaError

JOINTS = (
    *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
    *("pelvis", "thorax", "upper_neck", "head_top"),
    *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
)
LINKS = (
    *((0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9)),
    *((10, 11), (11, 12), (12, 7), (7, 13), (13, 14), (14, 15)),
)
KEYS = ("image", "joints", "joints_vis", "center", "scale")
LAYOUT = """\
  ROOT/annot/SPLIT.json   a list of {image, joints, joints_vis, center, scale}; also ROOT/SPLIT.json, or data.train:
                          its path. 'val' also finds valid.json
  ROOT/annot/gt_SPLIT.mat the heads' boxes, if there
  ROOT/images/*.jpg       or data.image_folder
  or, in place of the json, ROOT/mpii_human_pose_v1_u12_1.mat: a tenth of its images is 'val', the rest 'train'"""


def read(root: Path, split: str, config: DataConfig) -> PoseListing:
    """List the persons of a split, from its json or, where there is none, from the official file."""
    path = _json_file(root, split)
    if path is None:
        official = mpii_mat.find(root)
        if official is None:
            there = ", ".join(sorted(file.name for folder in ("annot", ".") for file in (root / folder).glob("*.json")))
            raise FnaError(
                f"there is no annot/{split}.json below {root}{f'; json files here: {there}' * bool(there)}; name a "
                f"split or a file with data.train and data.val; expected\n{LAYOUT}"
            )
        people, notes = mpii_mat.read_people(official, split)
    else:
        people, notes = _read_json(path), []
        _add_heads(people, path, split)
    return _list(root, split, config, people, notes)


def _list(
    root: Path, split: str, config: DataConfig, people: Sequence[dict[str, Any]], notes: Sequence[str]
) -> PoseListing:
    """Turn entries in the form of the json (and ``head``, in pixels, and ``hidden`` joints) into records."""
    names: dict[str, int] = {}
    records, problems = [], []
    for position, person in enumerate(people):
        who, name = f"person {position}", person.get("image")
        if not is_name(name):
            problems.append(Defect("a person has no image, or one not in UTF-8", who, ascii(name)[:60]))
            continue
        image = names.setdefault(name, len(names))
        points, box = _points(person.get("joints"), person.get("joints_vis")), _box(person)
        for joint in person.get("hidden", ()):
            points[joint][2] = 1
        records.append(Record(image, who, points, box, None, person.get("head"), Path(name).stem, position))
    folder = image_folder(root, split, config.image_folder, list(names))
    return PoseListing(JOINTS, LINKS, [folder / name for name in names], list(names), records, (), problems, notes)


def _points(joints: Any, visible: Any) -> Any:
    """Return triples counted from 0; what has not the form as it is, for the checks to refuse."""
    if not isinstance(joints, list) or not isinstance(visible, list) or len(joints) != len(visible):
        return joints
    points = []
    for place, seen in zip(joints, visible, strict=True):
        if not isinstance(place, list) or len(place) != 2:
            return joints
        points.append([number(place[0]) - 1, number(place[1]) - 1, 2 if seen == 1 else seen])
    return points


def _box(person: dict[str, Any]) -> Any:
    """Return x0, y0, width, height; None where the file gives none; what has not the form as it is."""
    center, scale = person.get("center"), person.get("scale")
    if center is None and scale is None:
        return None
    if not isinstance(center, list) or len(center) != 2:
        return {"center": center, "scale": scale}
    x, y, size = map(number, (*center, scale))
    x, y, side = x - 0.5, y - 0.5 + 15 * size, 200 * size  # from 1 to 0, and from the pixel's centre to its rim
    return [x - side / 2, y - side / 2, side, side]


def _json_file(root: Path, split: str) -> Path | None:
    names = [split, f"{split}.json", *(["valid.json"] if split == "val" else [])]
    tries = [root / folder / name for name in names for folder in ("annot", "")]
    return next((path for path in tries if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _read_json(path: Path) -> list[dict[str, Any]]:
    try:
        people = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise FnaError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; expected json") from error
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise FnaError(f"{path} is no list of persons; expected\n{LAYOUT}")
    return [{key: person[key] for key in KEYS if key in person} for person in people]


def _add_heads(people: list[dict[str, Any]], path: Path, split: str) -> None:
    """Add the heads' sizes from the MATLAB file beside the json, if there, in place."""
    known = [path.with_name(f"gt_{name}.mat") for name in dict.fromkeys((path.stem, split))]
    file = next((file for file in known if _is_file(file)), None)
    if file is None:
        return
    boxes_N4 = mpii_mat.head_boxes(file)
    if len(boxes_N4) != len(people):
        raise FnaError(f"{file} has {len(boxes_N4)} heads, {path} {len(people)} persons; do they belong together?")
    for person, (x0, y0, x1, y1) in zip(people, boxes_N4, strict=True):
        person["head"] = mpii_mat.head_size(x0, y0, x1, y1)


FORMATS = {"mpii": PoseReader(read, LAYOUT)}
