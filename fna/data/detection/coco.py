"""COCO instances: one json a split. Source: cocodataset.org/#format-data.

The classes are the categories in the order of their ids, which may have gaps, or ``data.classes`` in its order; things
of other categories are left alone. Images without annotations stay: nothing is to be found there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fna.config import DataConfig
from fna.data.coco_json import annotation_file, coco_mark, entries, flag, ids_restart, image_folder, load_json, whole
from fna.data.detection.listing import (
    BAD_IMAGE,
    NO_IMAGE,
    SAME_ID,
    UNKNOWN_CLASS,
    UNREADABLE_BOX,
    Box,
    DetectionListing,
    DetectionReader,
    Flaw,
    Record,
    choose_classes,
)
from fna.data.naming import Names
from fna.data.stamps import Sources
from fna.errors import FnaError, short

LAYOUT = """\
  ROOT/annotations/instances_train2017.json   or instances_train.json, also in ROOT; data.train may be a json's path
  ROOT/train2017/, ROOT/images/, ...          the images; data.image_folder where it is another folder
  or ROOT/train/_annotations.coco.json beside its images, valid/, test/ (Roboflow); without splits one json,
  ROOT/result.json or annotations/instances_default.json, ... and its images (Label Studio, CVAT): see data.split"""


def read(root: Path, split: str, config: DataConfig) -> DetectionListing:
    """List a split of COCO's form."""
    path = annotation_file(root, split, "instances", LAYOUT)
    document = load_json(path)
    annotations = entries(document, "annotations", path)
    used = {_whole(item.get("category_id")) for item in annotations}
    categories = _categories(_meant(entries(document, "categories", path), used), path)
    classes = choose_classes(list(categories.values()), config.classes, str(path))
    images = entries(document, "images", path)
    names = [image["file_name"] for image in images if _is_name(image.get("file_name"))]
    folder = image_folder(root, split, config.image_folder, names, path.parent)
    boxes, flaws = _boxes(annotations, {_id(image) for image in images}, categories, classes)
    ids = {name: number for number, name in categories.items()}
    files = Names(folder)
    records = tuple(_records(images, files, boxes))
    numbers = tuple(ids[name] for name in classes)
    return DetectionListing(records, classes, numbers, tuple(flaws), tuple(files.note()), sources=Sources([path]))


def _meant(items: Sequence[Mapping[str, Any]], used: set[int | None]) -> list[Mapping[str, Any]]:
    """Return the categories without those that are there for form's sake, as long as nothing is of them.

    Such are the one that Roboflow puts above all others, and, of several of one name, those without annotations.
    """
    roots = [item for item in items if item.get("supercategory") == "none" and _id(item) not in used]
    others = [item for item in items if item not in roots]
    if len(roots) == 1 and others and all(item.get("supercategory") == roots[0].get("name") for item in others):
        items = others
    if not used - {None}:
        return list(items)
    of_name: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        of_name.setdefault(repr(item.get("name")), []).append(item)
    return [item for same in of_name.values() for item in ([one for one in same if _id(one) in used] or same[-1:])]


def _categories(items: Sequence[Mapping[str, Any]], path: Path) -> dict[int, str]:
    """Return name by id, in the order of the ids."""
    categories: dict[int, str] = {}
    for number, item in enumerate(items):
        key, name = _id(item), item.get("name")
        if key is None or not _is_name(name) or not str(name).isprintable():
            raise FnaError(f"{path}: category {number} is {short(item)}; expected a whole number 'id' and a 'name'")
        if key in categories or name in categories.values():
            raise FnaError(f"{path}: category {number} has the id or the name of another one: {short(item)}")
        categories[key] = str(name)
    return dict(sorted(categories.items()))


def _boxes(
    annotations: Sequence[dict[str, Any]],
    images: set[int | None],
    categories: Mapping[int, str],
    chosen: Sequence[str],
) -> tuple[dict[int, list[Box]], list[Flaw]]:
    """Return the boxes by image id, and the flaws of annotations that belong to no image."""
    label_of = {name: label for label, name in enumerate(chosen)}
    boxes: dict[int, list[Box]] = {}
    homeless: list[Flaw] = []
    seen: dict[Any, tuple[Any, ...]] = {}  # annotation id -> what it is of
    restart = ids_restart(annotations)
    for number, item in enumerate(annotations):
        own = _id(item)
        about = (_whole(item.get("image_id")), own) if restart else own
        place = f"annotation {own}" if own is not None else f"annotation at position {number}"
        image = _whole(item.get("image_id"))
        if image is None or image not in images:
            homeless.append(Flaw(NO_IMAGE, place, f"image_id {_shown(item.get('image_id'))}"))
            continue
        category = _whole(item.get("category_id"))
        name = categories.get(category) if category is not None else None
        if name is not None and name not in label_of:
            continue
        label = label_of[name] if name is not None else -1
        box = _box(item, place, label)
        if own is not None:
            same = (image, category, repr(item.get("bbox")))
            if about in seen and box.flaw is None:
                detail = "and the same box" if seen[about] == same else "but another box"
                flaw = Flaw(SAME_ID, place, detail)
                box = Box(place, box.corners, label, box.crowd, False, box.area, flaw, keep=seen[about] != same)
            seen.setdefault(about, same)
        boxes.setdefault(image, []).append(box)
    return boxes, homeless


def _box(item: Mapping[str, Any], place: str, label: int) -> Box:
    """Return an annotation's box; its width and height become corners."""
    corners, crowd, flaw = item.get("bbox"), flag(item.get("iscrowd")), None
    if isinstance(corners, list) and len(corners) == 4 and all(type(side) in (int, float) for side in corners):
        x0, y0, width, height = corners
        with suppress(OverflowError):  # the checks will name it as it is
            corners = (x0, y0, x0 + width, y0 + height)
    if label < 0:
        flaw = Flaw(UNKNOWN_CLASS, place, f"category_id {_shown(item.get('category_id'))} is not in 'categories'")
    elif crowd not in (0, 1):
        flaw = Flaw(UNREADABLE_BOX, place, f"iscrowd is {_shown(item.get('iscrowd'))}; expected 0 or 1")
    return Box(place, corners, label, crowd == 1, False, item.get("area"), flaw)


def _records(images: Sequence[Mapping[str, Any]], paths: Names, boxes: Mapping[int, Sequence[Box]]) -> Iterable[Record]:
    """Yield a record per image; of several with the same id none can be used, unless they are the same image."""
    files: dict[int | None, set[str]] = {}
    for image in images:
        files.setdefault(_id(image), set()).add(repr(image.get("file_name")))
    for number, image in enumerate(images):
        own, name = _id(image), image.get("file_name")
        flaws = []
        if own is None:
            flaws.append(
                Flaw(BAD_IMAGE, f"image at position {number}", f"id {_shown(image.get('id'))} is no whole number")
            )
        elif len(files[own]) > 1:
            flaws.append(Flaw(BAD_IMAGE, f"image at position {number}", f"other images have its id {own}, too"))
        if not _is_name(name):
            flaws.append(Flaw(BAD_IMAGE, f"image at position {number}", f"file_name {short(name)} is no name"))
        shown = str(name) if _is_name(name) else f"image {own}"
        size = (_whole(image.get("height")), _whole(image.get("width")))
        size_hw = (size[0], size[1]) if size[0] and size[1] else None  # absent or 0: not said
        key = own if own is not None else -1
        yield Record(shown, paths.find(shown), key, () if flaws else boxes.get(key, ()), size_hw, tuple(flaws))


def _id(item: Mapping[str, Any]) -> int | None:
    return _whole(item.get("id"))


def _whole(value: Any) -> int | None:
    number = whole(value)
    return number if number is not None and abs(number) < 2**63 else None


def _shown(value: Any) -> str:
    """Return a value as written; text keeps its quotes, or '7' would look like the 7 that is expected."""
    return short(repr(value) if isinstance(value, str) else value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _mark(root: Path, config: DataConfig) -> str:
    """Return what makes it such a data set."""
    return coco_mark(root, config, "instances")


FORMATS = {"coco": DetectionReader(read, LAYOUT, mark=_mark)}
