"""The file that says where the persons of a folder's images are: COCO annotations, or what a detector found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fna.data.pose.checks import number
from fna.errors import FnaError, nearest
from fna.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

PERSON = "person"  # COCO's name of the category, and 1 its number
PERSON_ID = 1


@dataclass
class PersonBoxes:
    """Persons by the file name of their image.

    Attributes:
        records: of each person ``box``, a tensor x0, y0, width, height in pixels, and ``score`` in [0, 1].
        image_ids: the numbers that the file itself gives to images.
        left_out: how many boxes are no single person: those of other categories, and of crowds.
    """

    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    image_ids: dict[str, int] = field(default_factory=dict)
    left_out: int = 0


def read_boxes(path: Path, images: Sequence[Path]) -> PersonBoxes:
    """Read persons from COCO annotations, or from a list of detections.

    Only persons count. If the file names its categories, a person is what is called so, or has joints. If it does not,
    it is the only category there is, or number 1 of several.

    Args:
        path: annotations with ``images``, or detections with a ``file_name`` or an ``image_id`` that is a file's stem;
            of stems that are numbers, zeros in front do not matter (COCO's 785 is 000000000785.jpg).
        images: the images they are for.

    Raises:
        FnaError: the file is no such json, names no category of persons, or has no person in any of `images`.
    """
    data = read_json(path)
    numbers = {str(int(p.stem)): p.name for p in images if p.stem.isdecimal()}
    names = numbers | {p.stem: p.name for p in images} | {p.name: p.name for p in images}
    found = PersonBoxes()
    try:
        rows = data.get("annotations", ()) if isinstance(data, dict) else data
        listed = data.get("images", ()) if isinstance(data, dict) else ()
        files = {row.get("id"): row.get("file_name") for row in listed}
        persons = _person_ids(data, rows, path)
        for row in rows:
            image = row.get("image_id")
            name = names.get(Path(row.get("file_name") or files.get(image) or str(image)).name)
            if name is None:
                continue
            if isinstance(image, int) and not isinstance(image, bool):
                found.image_ids[name] = image
            if row.get("iscrowd") or row.get("category_id") not in persons:
                found.left_out += 1
                continue
            found.records.setdefault(name, []).append({"box": _box(row, name), "score": _score(row, name)})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FnaError(f"--boxes {path} is no COCO json: {error}; expected a list of objects with 'bbox'") from error
    if not found.records:
        others = f" ({found.left_out} boxes are crowds or of other categories)" if found.left_out else ""
        raise FnaError(
            f"--boxes {path} has no person in any image, such as {images[0].name}{others}; check its file names and "
            "categories"
        )
    return found


def _person_ids(data: Any, rows: Any, path: Path) -> set[Any]:
    """Return the category numbers that are persons."""
    categories = data.get("categories", ()) if isinstance(data, dict) else ()
    names = [str(row["name"]) for row in categories if row.get("name")]
    persons = {row["id"] for row in categories if str(row.get("name")).lower() == PERSON or row.get("keypoints")}
    if names and not persons:
        raise FnaError(
            f"--boxes {path} has boxes of {', '.join(names[:10])}, of no category '{PERSON}'{nearest(PERSON, names)}; "
            f"give the boxes of persons, or call the right category '{PERSON}'"
        )
    used = {row.get("category_id") for row in rows}
    if persons:
        return persons | ({None} if len(categories) == 1 else set())
    return used if len(used) == 1 else {PERSON_ID}


def _box(row: Mapping[str, Any], name: str) -> Tensor:
    import torch

    values = [number(value) for value in row["bbox"]] if isinstance(row["bbox"], list) else []
    if len(values) != 4 or not all(map(math.isfinite, values)) or min(values[2:]) <= 0:
        raise ValueError(f"the box {row['bbox']} of {name} is not [x, y, width, height]")
    return torch.tensor(values)


def _score(row: Mapping[str, Any], name: str) -> float:
    score = number(row.get("score", 1))
    if not 0 <= score <= 1:
        raise ValueError(f"the score {row['score']} of a box of {name} is not between 0 and 1")
    return score
