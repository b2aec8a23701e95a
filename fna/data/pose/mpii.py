"""MPII Human Pose: the json of HRNet and SimpleBaseline, or the official MATLAB file.

Both count pixels from 1, so one is taken off. A person is about 200 * scale pixels high; the box is a square of that
side, 15 * scale below the centre, and `data.box_padding` 1.25 then gives the crop that those projects use. Source:
human-pose.mpi-inf.mpg.de; github.com/leoxiaobin/deep-high-resolution-net.pytorch, lib/dataset/mpii.py.

The head's size, by which PCKh is measured, is 0.6 times the diagonal of the head's box, as in MPII's own script. The
json lacks the box. If the split's ``gt_SPLIT.mat`` lies beside it, which those projects ship, it is read from there;
else the size is the length of the segment from upper_neck to head_top, which is larger and so gives a higher score, and
a note says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fna.config import DataConfig
from fna.data.coco_json import image_folder
from fna.data.naming import find_all
from fna.data.places import MissingSplitError
from fna.data.pose import mpii_mat
from fna.data.pose.checks import Wrong, number, short
from fna.data.pose.listing import Defect, PoseListing, PoseReader, Record, is_name
from fna.data.stamps import Sources
from fna.errors import FnaError
from fna.files import read_text

JOINTS = (
    *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
    *("pelvis", "thorax", "upper_neck", "head_top"),
    *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
)
LINKS = (
    *((0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9)),
    *((10, 11), (11, 12), (12, 7), (7, 13), (13, 14), (14, 15)),
)
PAIRS = f"{len(JOINTS)} pairs [x, y]"
KEYS = ("image", "joints", "joints_vis", "center", "scale")
LAYOUT = """\
  ROOT/annot/SPLIT.json   a list of {image, joints, joints_vis, center, scale}; also ROOT/SPLIT.json, or data.train:
                          its path. 'val' also finds valid.json
  ROOT/annot/gt_SPLIT.mat optional: the heads' boxes; without them PCKh does not compare with MPII's tables
  ROOT/images/*.jpg       or data.image_folder
  or, in place of the json, ROOT/mpii_human_pose_v1_u12_1.mat: a tenth of its images is 'val' (also
                          'valid'), the rest 'train'"""


def read(root: Path, split: str, config: DataConfig) -> PoseListing:
    """List the persons of a split, from its json or, where there is none, from the official file."""
    path = _json_file(root, split)
    if path is None:
        official = mpii_mat.find(root)
        if official is None:
            there = ", ".join(sorted(file.name for folder in ("annot", ".") for file in (root / folder).glob("*.json")))
            raise MissingSplitError(
                f"there is no annot/{split}.json below {root}{f'; json files here: {there}' * bool(there)}; name a "
                f"split or a file with data.train and data.val; expected\n{LAYOUT}"
            )
        people, notes = mpii_mat.read_people(official, split)
        sources = Sources([official])
    else:
        people = _read_json(path)
        notes = _add_heads(people, path, split)
        notes = [] if split == config.train != config.val else notes  # heads matter where people are scored
        sources = Sources([path, *_head_files(path, split)])
    return replace(_list(root, split, config, people, notes), sources=sources)


def _list(
    root: Path, split: str, config: DataConfig, people: Sequence[dict[str, Any]], notes: Sequence[str]
) -> PoseListing:
    """Turn entries in the form of the json (and ``head``, in pixels, and ``hidden`` joints) into records."""
    names: dict[str, int] = {}
    records, problems = [], []
    for position, person in enumerate(people):
        who, name = f"person {position}", person.get("image")
        if not is_name(name):
            problems.append(Defect("a person has no image", who, _wrong(person, "image", "a file name in UTF-8").text))
            continue
        image = names.setdefault(name, len(names))
        points, box = _points(person), _box(person)
        records.append(Record(image, who, points, box, None, person.get("head"), Path(name).stem, position))
    folder = image_folder(root, split, config.image_folder, list(names))
    paths, other_names = find_all(folder, list(names))
    return PoseListing(JOINTS, LINKS, paths, list(names), records, (), problems, [*notes, *other_names])


def _points(person: dict[str, Any]) -> list[list[Any]] | Wrong:
    """Return triples counted from 0, or what is wrong."""
    joints, visible = person.get("joints"), person.get("joints_vis")
    if isinstance(joints, Wrong):
        return joints
    if not isinstance(joints, list) or len(joints) != len(JOINTS):
        return _wrong(person, "joints", PAIRS)
    if not isinstance(visible, list) or len(visible) != len(JOINTS):
        return _wrong(person, "joints_vis", f"{len(JOINTS)} values of 0 or 1")
    for name, place in zip(JOINTS, joints, strict=True):
        if not isinstance(place, list) or len(place) != 2:
            return Wrong(f"'joints' has {short(place)} for {name}; expected {PAIRS}")
    points = [[number(x) - 1, number(y) - 1, 2 if v == 1 else v] for (x, y), v in zip(joints, visible, strict=True)]
    for joint in person.get("hidden", ()):
        points[joint][2] = 1
    return points


def _box(person: dict[str, Any]) -> list[float] | Wrong | None:
    """Return x0, y0, width, height, or what is wrong; None where the file gives none."""
    center, scale = person.get("center"), person.get("scale")
    if center is None and scale is None:
        return None
    x, y = map(number, center) if isinstance(center, list) and len(center) == 2 else (math.nan, math.nan)
    if not math.isfinite(x) or not math.isfinite(y):
        return _wrong(person, "center", "[x, y]")
    size = number(scale)
    if not 0 < size < math.inf:
        return _wrong(person, "scale", "a number above 0, the person's height / 200 pixels")
    x, y, side = x - 0.5, y - 0.5 + 15 * size, 200 * size  # from 1 to 0, and from the pixel's centre to its rim
    return [x - side / 2, y - side / 2, side, side]


def _wrong(person: dict[str, Any], key: str, expected: str) -> Wrong:
    """Say what is there in place of a key's value."""
    value = person.get(key)
    given = f"has {len(value)} items" if isinstance(value, list) and len(value) > 2 else f"is {short(value)}"
    return Wrong(f"'{key}' {given if key in person else 'is missing'}; expected {expected}")


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
        people = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise FnaError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; expected json") from error
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise FnaError(f"{path} is no list of persons; expected\n{LAYOUT}")
    return [{key: person[key] for key in KEYS if key in person} for person in people]


def _head_files(path: Path, split: str) -> list[Path]:
    """Return where the heads' boxes of a json may be."""
    return [path.with_name(f"gt_{Path(name).name}.mat") for name in dict.fromkeys((path.stem, split))]


def _add_heads(people: list[dict[str, Any]], path: Path, split: str) -> list[str]:
    """Add the heads' sizes from the MATLAB file beside the json, if there, in place; return a note if it is not."""
    known = _head_files(path, split)
    file = next((file for file in known if _is_file(file)), None)
    if file is None:
        note = (
            f"there is no {known[0].name} beside {path.name}: a head's size is the length from upper_neck to head_top, "
            "larger than MPII's 0.6 x the diagonal of its box, and PCKh does not compare with MPII's tables"
        )
        return [note] if people else []
    boxes_N4 = mpii_mat.head_boxes(file)
    if len(boxes_N4) != len(people):
        raise FnaError(f"{file} has {len(boxes_N4)} heads, {path} {len(people)} persons; do they belong together?")
    for person, (x0, y0, x1, y1) in zip(people, boxes_N4, strict=True):
        person["head"] = mpii_mat.head_size(x0, y0, x1, y1)
    return []


def _mark(root: Path, config: DataConfig) -> str:
    """Return what makes it such a data set."""
    found = _json_file(root, config.train) or mpii_mat.find(root)
    if found is None or found.parent not in (root, root / "annot"):
        return ""
    if found.suffix == ".json":
        try:
            _read_json(found)
        except FnaError:
            return ""
    return found.relative_to(root).as_posix()


FORMATS = {"mpii": PoseReader(read, LAYOUT, mark=_mark)}
