"""The drawn plants as files, in a layout for every task: data to try commands with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from fna.data.synthetic.plants import CLASSES, JOINTS, SIZE_HW, Field, draw_field
from fna.errors import FnaError

COUNTS = {"train": 48, "val": 16, "test": 16}  # pictures
THINGS = ("leaf", "plant")  # what boxes are around
HEIGHT, WIDTH = SIZE_HW
Split = Mapping[str, Field]  # pictures by name


def write_plants(folder: Path) -> dict[Path, str]:
    """Write the data sets.

    Args:
        folder: a new one, or an empty one.

    Returns:
        What is where: a task and a format by folder.

    Raises:
        FnaError: there is something in the folder, or it cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FnaError(f"{folder} is not empty; give the name of a new folder")
    splits = {
        split: {f"field_{split}_{n:03d}": draw_field(split, n) for n in range(count)} for split, count in COUNTS.items()
    }
    try:
        for name, (_, write) in LAYOUTS.items():
            write(folder / name, splits)
    except OSError as error:
        raise FnaError(f"cannot write {folder}: {error.strerror or error}") from error
    return {folder / name: about for name, (about, _) in LAYOUTS.items()}


def _save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=92)  # to PNG, which knows none, it is nothing


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _boxes(field: Field) -> list[tuple[int, Sequence[float]]]:
    """Return the boxes of a picture with the position of their class in `THINGS`."""
    return [*((0, box) for box in field.leaves), *((1, box) for box in field.plants)]


# --- a function a layout ----------------------------------------------------------------------------------------------


def _write_masks(root: Path, splits: Mapping[str, Split]) -> None:
    for split, fields in splits.items():
        for name, field in fields.items():
            _save(root / "images" / f"{name}.jpg", field.image)
            _save(root / "masks" / f"{name}.png", field.mask)
        _write(root / f"{split}.txt", "".join(f"{name}\n" for name in fields))


def _write_coco(root: Path, splits: Mapping[str, Split]) -> None:
    categories = [{"id": number, "name": name} for number, name in enumerate(THINGS, 1)]
    for split, fields in splits.items():
        found = [
            {"category_id": thing + 1, "image_id": number, **_box(box)}
            for number, field in enumerate(fields.values(), 1)
            for thing, box in _boxes(field)
        ]
        _write_json(root, split, "instances", fields, found, categories)


def _write_pose(root: Path, splits: Mapping[str, Split]) -> None:
    category = {"id": 1, "name": "plant", "keypoints": list(JOINTS), "skeleton": [[1, 2], [2, 3]]}
    for split, fields in splits.items():
        found = []
        for number, field in enumerate(fields.values(), 1):
            for box, points in zip(field.plants, field.joints, strict=True):
                keypoints = [round(float(value), 1) for x, y in points for value in (x - 0.5, y - 0.5, 2)]
                found.append({"category_id": 1, "image_id": number, "keypoints": keypoints, **_box(box)})
        _write_json(root, split, "person_keypoints", fields, found, [{**category}])


def _box(corners: Sequence[float]) -> dict[str, Any]:
    x0, y0, x1, y1 = corners
    width, height = round(x1 - x0, 1), round(y1 - y0, 1)
    return {"bbox": [x0, y0, width, height], "area": round(width * height, 1), "iscrowd": 0}


def _write_json(
    root: Path, split: str, kind: str, fields: Split, found: Sequence[dict[str, Any]], categories: list[dict[str, Any]]
) -> None:
    """Write the images and the annotations of a split as COCO has them."""
    for name, field in fields.items():
        _save(root / "images" / f"{name}.jpg", field.image)
    images = [
        {"id": number, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH}
        for number, name in enumerate(fields, 1)
    ]
    annotations = [{"id": number, **item} for number, item in enumerate(found, 1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    _write(root / "annotations" / f"{kind}_{split}.json", json.dumps(document))


def _write_voc(root: Path, splits: Mapping[str, Split]) -> None:
    for split, fields in splits.items():
        for name, field in fields.items():
            _save(root / "JPEGImages" / f"{name}.jpg", field.image)
            _write(root / "Annotations" / f"{name}.xml", _xml(name, field))
        _write(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name}\n" for name in fields))


def _xml(name: str, field: Field) -> str:
    """Return the boxes of a picture as VOC writes them; it counts pixels from 1."""
    top = ElementTree.Element("annotation")
    ElementTree.SubElement(top, "filename").text = f"{name}.jpg"
    size = ElementTree.SubElement(top, "size")
    for key, value in {"width": WIDTH, "height": HEIGHT, "depth": 3}.items():
        ElementTree.SubElement(size, key).text = str(value)
    for thing, (x0, y0, x1, y1) in _boxes(field):
        entry = ElementTree.SubElement(top, "object")
        ElementTree.SubElement(entry, "name").text = THINGS[thing]
        corners = ElementTree.SubElement(entry, "bndbox")
        for key, edge in {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}.items():
            ElementTree.SubElement(corners, key).text = str(round(edge))
    ElementTree.indent(top)
    return ElementTree.tostring(top, "unicode") + "\n"


def _write_yolo(root: Path, splits: Mapping[str, Split]) -> None:
    for split, fields in splits.items():
        for name, field in fields.items():
            _save(root / "images" / split / f"{name}.jpg", field.image)
            lines = [
                f"{thing} {(x0 + x1) / 2 / WIDTH:.5f} {(y0 + y1) / 2 / HEIGHT:.5f} "
                f"{(x1 - x0) / WIDTH:.5f} {(y1 - y0) / HEIGHT:.5f}\n"
                for thing, (x0, y0, x1, y1) in _boxes(field)
            ]
            _write(root / "labels" / split / f"{name}.txt", "".join(lines))
    places = "".join(f"{split}: images/{split}\n" for split in splits)
    _write(root / "data.yaml", f"{places}names: [{', '.join(THINGS)}]\n")


Writer = Callable[[Path, Mapping[str, Split]], None]
LAYOUTS: dict[str, tuple[str, Writer]] = {  # below the folder: what it is, and what writes it
    ".": (f"segmentation, format folder, data.classes [{', '.join(CLASSES)}]", _write_masks),
    "coco": ("detection, format coco", _write_coco),
    "voc": ("detection, format voc", _write_voc),
    "yolo": ("detection, format yolo", _write_yolo),
    "pose": ("pose, format coco", _write_pose),
}
