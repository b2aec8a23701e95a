"""MPII's MATLAB files. SciPy reads them; it is needed for nothing else."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fna.data.pose.checks import Wrong
from fna.errors import FnaError

NAME = "mpii_human_pose_v1_u12_1.mat"
FOLDERS = (".", "annot", "mpii_human_pose_v1_u12_2", "mpii_human_pose_v1_u12_1")
TENTHS = 10
VAL = ("val", "valid")  # our word, and that of the json's projects
JOINTS = 16
HEAD_SHARE = 0.6  # SC_BIAS of MPII's evaluation script


def find(root: Path) -> Path | None:
    """Return the official annotation file below `root`, if it is there."""
    return next((root / folder / NAME for folder in FOLDERS if (root / folder / NAME).is_file()), None)


def load(path: Path) -> dict[str, Any]:
    """Read a MATLAB file: structures as objects, single values without arrays around them.

    Raises:
        FnaError: SciPy is not installed, or it cannot read the file.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise FnaError(f"reading {path} needs SciPy; type: pip install scipy") from error
    try:
        content: dict[str, Any] = loadmat(path, struct_as_record=False, squeeze_me=True)
    except Exception as error:  # a broken file may raise anything inside
        raise FnaError(f"cannot read the MATLAB file {path}: {error or type(error).__name__}") from error
    return content


def head_boxes(path: Path) -> list[list[float]]:
    """Return x0, y0, x1, y1 of the heads, in the order of the persons, from ``gt_valid.mat``.

    Raises:
        FnaError: see `load`; or the boxes are missing or of another shape.
    """
    boxes = load(path).get("headboxes_src")
    shape = getattr(boxes, "shape", None)
    if boxes is None or shape is None or len(shape) not in (2, 3) or shape[:2] != (2, 2):
        raise FnaError(f"{path} has no 'headboxes_src' of shape (2, 2, persons), but {shape}; is it gt_valid.mat?")
    result: list[list[float]] = boxes.reshape(4, -1).T.astype(float).tolist()
    return result


def head_size(x0: float, y0: float, x1: float, y1: float) -> float:
    """Return the size of a head by its box, as MPII's script; nan if it is unknown or 0."""
    return HEAD_SHARE * math.hypot(x1 - x0, y1 - y0) or math.nan


def read_people(path: Path, split: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the persons of a split in the form of the json, with ``head`` and ``hidden`` joints; and notes.

    The file has no validation split, so the images are divided by a hash of their names, always in the same way.

    Raises:
        FnaError: see `load`; or the split is not train or val, or the content is not MPII's.
    """
    if split not in ("train", *VAL):
        raise FnaError(
            f"{path} has the splits 'train' and 'val' (or 'valid'), not '{split}'; type --data.train train "
            "--data.val val"
        )
    release: Any = load(path).get("RELEASE")
    if not all(hasattr(release, name) for name in ("annolist", "img_train")):
        raise FnaError(f"{path} has no RELEASE with annolist and img_train; is it {NAME}?")
    people: list[dict[str, Any]] = []
    without = 0
    for entry, labelled in zip(_items(release.annolist), _items(release.img_train), strict=False):
        name = getattr(getattr(entry, "image", None), "name", None)
        if labelled != 1 or not isinstance(name, str) or (_is_val(name) != (split in VAL)):
            continue
        for rectangle in _items(getattr(entry, "annorect", None)):
            person = _person(rectangle)
            without += person is None
            people += [{"image": name, **person}] if person else []
    return people, [f"persons without joints, left out: {without}"] if without else []


def _is_val(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] * TENTHS < 256


def _person(rectangle: Any) -> dict[str, Any] | None:
    """Return a person in the form of the json, or None if it has no joints."""
    points = list(_items(getattr(getattr(rectangle, "annopoints", None), "point", None)))
    if not points:
        return None
    joints, visible = [[0.0, 0.0] for _ in range(JOINTS)], [0] * JOINTS
    hidden: list[int] = []
    for point in points:
        number = getattr(point, "id", None)
        if not isinstance(number, int) or not 0 <= number < JOINTS:
            return {"joints": Wrong(f"a joint has the id {number!r}; expected 0 to {JOINTS - 1}")}
        joints[number] = [_number(point.x), _number(point.y)]
        visible[number] = 1
        hidden += [number] if str(getattr(point, "is_visible", 1)) == "0" else []  # a number, a text or nothing
    corners = [_number(getattr(rectangle, key, None)) for key in ("x1", "y1", "x2", "y2")]
    person: dict[str, Any] = {"joints": joints, "joints_vis": visible, "hidden": hidden}
    person["head"] = head_size(*corners)
    place: Any = getattr(rectangle, "objpos", None)
    scale = getattr(rectangle, "scale", None)
    if hasattr(place, "x"):
        person |= {"center": [_number(place.x), _number(place.y)], "scale": _number(scale)}
    return person


def _items(value: Any) -> Iterator[Any]:
    """Yield the items of an array, or the one thing that MATLAB did not put into one."""
    if value is None:
        return
    yield from value.reshape(-1).tolist() if hasattr(value, "reshape") else [value]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
