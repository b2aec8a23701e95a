"""COCO keypoints: a json with images, persons and the names of their joints. Source: cocodataset.org/#format-data.

Crowds and people without labelled joints are no records, but handed on: COCO's script ignores what is found there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fna.config import DataConfig
from fna.data.coco_json import annotation_file, coco_mark, entries, flag, ids_restart, image_folder, load_json
from fna.data.naming import find_all
from fna.data.pose.listing import Defect, PoseListing, PoseReader, Record, is_name
from fna.data.stamps import Sources
from fna.errors import FnaError

LAYOUT = """\
  ROOT/annotations/person_keypoints_SPLIT.json   or ROOT/person_keypoints_SPLIT.json, or data.train: its path;
                                                 'train' also finds person_keypoints_train2017.json
  ROOT/images/*.jpg                              or images/SPLIT/, SPLIT/, train2017/, ...; data.image_folder
  or ROOT/train/_annotations.coco.json beside its images, valid/, test/; without splits one json: see data.split"""

OBJECTS = "annotations of categories without joints"


def read(root: Path, split: str, config: DataConfig) -> PoseListing:
    """List the persons of a split. What is no person to learn from is left out and counted."""
    path = annotation_file(root, split, "person_keypoints", LAYOUT)
    document = load_json(path)
    joints, links, categories, notes = _joints(entries(document, "categories", path), path)
    images, problems = _images(entries(document, "images", path))
    seen: set[Any] = set()
    people = entries(document, "annotations", path)
    restart = ids_restart(people)
    left_out: list[tuple[str, dict[str, Any]]] = []
    records: list[Record] = []
    used: dict[int, int] = {}  # position in `images` -> position in the listing
    ids = {image["id"]: position for position, image in enumerate(images)}
    for position, person in enumerate(people):
        if restart and isinstance(person.get("id"), int):
            person = {**person, "id": position + 1}
        reason = _left_out(person, categories)
        if reason:
            left_out.append((reason, person))
            continue
        problem = _problem(person, f"annotation {person.get('id', position)}", ids, images, seen)
        if problem:
            problems.append(problem)
            continue
        seen.add(person["id"])
        image = used.setdefault(ids[person["image_id"]], len(used))
        records.append(_record(person, image))
    chosen = [images[position] for position in used]
    names = [image["file_name"] for image in chosen]
    folder = image_folder(root, split, config.image_folder, names, path.parent)
    notes += [f"{reason}, left out: {number}" for reason, number in Counter(why for why, _ in left_out).items()]
    sizes = [_size(image) for image in chosen]
    paths, other_names = find_all(folder, names)
    notes += other_names
    places = {image["id"]: position for position, image in enumerate(chosen)}
    ignored = list(_ignored([person for why, person in left_out if why != OBJECTS], places, len(joints)))
    sources = Sources([path])
    return PoseListing(joints, links, paths, names, records, sizes, problems, notes, ignored=ignored, sources=sources)


def _ignored(people: Sequence[dict[str, Any]], places: dict[Any, int], joints: int) -> Iterator[Record]:
    """Yield the crowds and people without joints that have a box and are in the images of the listing."""
    for person in people:
        image_id = _key(person.get("image_id"))
        if image_id in places and person.get("bbox") is not None:
            points, crowd = person.get("keypoints") or [0] * 3 * joints, _is_crowd(person)
            yield Record(places[image_id], "", points, person["bbox"], person.get("area"), None, image_id, crowd=crowd)


def _record(person: dict[str, Any], image: int) -> Record:
    points, box, area = (person.get(key) for key in ("keypoints", "bbox", "area"))
    identity = f"annotation {person['id']}"
    return Record(image, identity, points, box, area, None, person["image_id"], person["id"])


def _joints(
    categories: Sequence[dict[str, Any]], path: Path
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...], set[Any], list[str]]:
    """Return the joints' names, the skeleton's links, the ids of the categories that have them, and notes."""
    posed = [category for category in categories if category.get("keypoints")]
    if not posed:
        raise FnaError(f"{path}: no category has 'keypoints', the joints' names; is it a person_keypoints file?")
    names = posed[0]["keypoints"]
    if not isinstance(names, list) or not all(map(is_name, names)) or len(set(names)) < len(names):
        raise FnaError(f"{path}: the category's 'keypoints' are {ascii(names)[:100]}; expected different names")
    others = [category.get("name") for category in posed if category["keypoints"] != names]
    if others:
        raise FnaError(
            f"{path}: category {posed[0].get('name')!r} has other joints than {', '.join(map(repr, others[:5]))}; "
            "one network learns one set of joints: split the file"
        )
    skeleton = posed[0].get("skeleton")
    skeleton = skeleton if isinstance(skeleton, list) else []
    pairs = [tuple(pair) for pair in skeleton if isinstance(pair, list) and len(pair) == 2]
    first = 0 if any(0 in pair for pair in pairs) and not any(len(names) in pair for pair in pairs) else 1
    last = first + len(names) - 1
    good = [pair for pair in pairs if all(type(n) is int and first <= n <= last for n in pair)]
    links = tuple((a - first, b - first) for a, b in good)
    wrong = len(skeleton) - len(links)
    notes = [f"links of the skeleton that name no joint of {first} to {last}, left out: {wrong}"] if wrong else []
    return tuple(names), links, {_key(category.get("id")) for category in posed}, notes


def _images(images: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Defect]]:
    """Return the images that can be referred to, and what is wrong with the others."""
    good, problems = [], []
    seen: set[Any] = set()
    for position, image in enumerate(images):
        number, name = image.get("id"), image.get("file_name")
        if not isinstance(number, int | str) or not is_name(name):
            problems.append(
                Defect("an image has no id or no file_name in UTF-8", f"image {position}", ascii(image)[:60])
            )
        elif number in seen:
            problems.append(Defect("an image's id occurs twice", ascii(name), f"id {number}"))
        else:
            seen.add(number)
            good.append(image)
    return good, problems


def _left_out(person: dict[str, Any], categories: set[Any]) -> str:
    """Return what the annotation is, if no person to learn from, or ''."""
    if _key(person.get("category_id", next(iter(categories)))) not in categories:
        return OBJECTS
    if _is_crowd(person):
        return "crowds"
    points = person.get("keypoints") or []
    blank = isinstance(points, list) and len(points) % 3 == 0 and all(seen == 0 for seen in points[2::3])
    return "people without a labelled joint" if blank and not person.get("num_keypoints") else ""


def _is_crowd(person: dict[str, Any]) -> bool:
    return bool(flag(person.get("iscrowd")) == 1)


def _problem(
    person: dict[str, Any], who: str, ids: dict[Any, int], images: Sequence[dict[str, Any]], seen: set[Any]
) -> Defect | None:
    """Return what is wrong with an annotation's ids, if anything."""
    image_id, own = person.get("image_id"), person.get("id")
    if _key(image_id) not in ids:
        return Defect("there is no image of that id", who, f"image_id {ascii(image_id)[:40]}")
    who = f"{images[ids[image_id]]['file_name']}, {who}"
    if not isinstance(own, int):
        return Defect("the annotation's id is no whole number", who, ascii(own)[:40])
    if own in seen:
        return Defect("an annotation's id occurs twice", who)
    return None


def _key(value: Any) -> Any:
    """Return a value that can be looked up: an id is a number or a text."""
    return value if isinstance(value, int | str) else None


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _mark(root: Path, config: DataConfig) -> str:
    """Return what makes it such a data set."""
    return coco_mark(root, config, "person_keypoints")


FORMATS = {"coco": PoseReader(read, LAYOUT, mark=_mark)}
