"""COCO's json files, as detection and pose find and open them. Source: cocodataset.org/#format-data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from fna.config import DataConfig
from fna.data.naming import Names
from fna.data.places import WHOLE, MissingSplitError, descend, files, split_names
from fna.errors import FnaError, nearest
from fna.files import read_text

YEARS = ("", "2017", "2014")  # COCO's own splits carry one
BESIDE = ("_annotations.coco.json", "annotations.json", "_annotations.json", "result.json", "coco.json")
KINDS = ("instances_", "person_keypoints_", "")  # what the names of COCO's files begin with
LOOKED_AT = 32  # image names that tell a folder of images from another


def load_json(path: Path) -> dict[str, Any]:
    """Read a json file with an object at its top. NaN and Infinity are read: who knows the record refuses them.

    Raises:
        FnaError: the file is missing, not UTF-8, no json (with line and column), or holds something else.
    """
    try:
        document = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise FnaError(
            f"{path} is no json: line {error.lineno}, column {error.colno}: {error.msg}; is the file complete?"
        ) from error
    except RecursionError as error:
        raise FnaError(f"{path} is nested too deeply; expected a json of COCO's form") from error
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, a NUL in the name, or a number of 5000 digits
        raise FnaError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; expected json") from error
    if not isinstance(document, dict):
        raise FnaError(f"{path} holds a {type(document).__name__}; expected an object with 'images', 'annotations' ...")
    return document


def entries(document: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """Return the list of objects under `key`.

    Args:
        document: of `load_json`.
        key: ``"images"``, ``"annotations"`` or ``"categories"``.
        path: the file, for messages.

    Raises:
        FnaError: there is no such list, or something else is in it.
    """
    if key not in document:
        known = ", ".join(f"'{name[:40]}'" for name in islice(document, 10)) or "nothing"
        raise FnaError(f"{path} has no '{key}'{nearest(key, document)}; it has {known}; expected COCO's form")
    items = document[key]
    if not isinstance(items, list):
        raise FnaError(f"{path}: '{key}' is a {type(items).__name__}; expected a list of objects")
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise FnaError(f"{path}: '{key}', item {number} is a {type(item).__name__}; expected an object")
    return items


def whole(value: Any) -> int | None:
    """Return a whole number, also one that is written as 7.0 or "7"; None: it is none.

    >>> whole(7.0), whole("7"), whole("7a"), whole(True)
    (7, 7, None, None)
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def flag(value: Any) -> Any:
    """Return 0 or 1 for what means one of them, null and absence 0; anything else as it is."""
    if value is None:
        return 0
    number = int(value) if isinstance(value, bool) else whole(value)
    return number if number in (0, 1) else value


def ids_restart(annotations: Sequence[dict[str, Any]]) -> bool:
    """Tell whether ids of annotations begin anew in every image: in all with the same one, in none with one twice."""
    of_image: dict[str, list[int]] = {}
    for item in annotations:
        own = whole(item.get("id"))
        if own is None:
            return False
        of_image.setdefault(repr(item.get("image_id")), []).append(own)
    ids = list(of_image.values())
    return len(ids) > 1 and len(set(map(min, ids))) == 1 and all(len(set(own)) == len(own) for own in ids)


def annotation_file(root: Path, split: str, kind: str, layout: str) -> Path:
    """Find the json of a split.

    Args:
        root: the data set's folder.
        split: ``train`` or ``val``, or the path of a json file, below `root` or absolute.
        kind: what COCO calls such files: ``"instances"`` or ``"person_keypoints"``.
        layout: what an error message shows as expected.

    Raises:
        FnaError: there is none; the message lists the json files that are there.
    """
    names = [f"{kind}_{split}{year}.json" for year in YEARS] + [f"{split}{year}.json" for year in YEARS]
    tries = [root / split, *(folder / name for name in names for folder in (root / "annotations", root))]
    for path in tries:
        if _is_file(path):
            return path
    others = _only_json(root) if split == WHOLE else _exported(root, split)
    if others:
        return others[0]
    here = _json_files(root)
    hint = nearest(f"{kind}_{split}.json", [Path(name).name for name in here])
    there = f"; json files here: {', '.join(here[:10])}" if here else ""
    raise MissingSplitError(
        f"there is no {kind}_{split}.json below {root}{hint}{there}; name a split or a file with "
        f"data.train, data.val and data.test; expected\n{layout}"
    )


def _exported(root: Path, split: str) -> list[Path]:
    """Return the json of a split as Roboflow, and others, name it: beside its images, in the split's folder."""
    found = []
    for name in split_names(split):
        own = descend(root, name)
        found += [own / json_name for json_name in BESIDE if _is_file(own / json_name)] if own else []
        tries = [root / folder / f"{kind}{name}.json" for folder in ("annotations", ".") for kind in KINDS]
        found += [path for path in tries if _is_file(path)]
    return found


def _only_json(root: Path) -> list[Path]:
    """Return the json of a data set without splits: the only one there is, in ROOT or in annotations/.

    Raises:
        FnaError: there are several.
    """
    found = [path for folder in (root / "annotations", root) for path in files(folder, (".json",)) if _is_coco(path)]
    if len(found) > 1:
        names = ", ".join(path.relative_to(root).as_posix() for path in found[:5])
        raise FnaError(
            f"{root} has {len(found)} json files: {names}; name them with data.train, data.val and data.test, such as "
            f"--data.train {found[0].relative_to(root).as_posix()}"
        )
    return found


def _is_coco(path: Path) -> bool:
    """Tell whether a json looks like COCO's; one that cannot be read may be meant."""
    try:
        document = load_json(path)
    except FnaError:
        return True
    return "images" in document and "annotations" in document


def coco_mark(root: Path, config: DataConfig, kind: str) -> str:
    """Return what makes a folder a data set of COCO's form.

    Args:
        root: the folder.
        config: the settings.
        kind: as of `annotation_file`.
    """
    for split in (config.train, WHOLE):
        with suppress(FnaError):
            path = annotation_file(root, split, kind, "")
            if path.suffix == ".json" and _is_coco(path):
                return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return ""


def image_folder(root: Path, split: str, folder: str | None, names: Sequence[str], beside: Path | None = None) -> Path:
    """Find the folder of a split's images: of the usual ones, that with most of the names.

    Args:
        root: the data set's folder.
        split: as given to `annotation_file`.
        folder: ``data.image_folder``; None: the usual ones.
        names: file names of images; a few are looked for.
        beside: the folder of the json, where labelling tools put the images.

    Raises:
        FnaError: none of the folders has any of the names.
    """
    short = Path(split).stem.removeprefix("instances_").removeprefix("person_keypoints_")
    splits = [f"{short}{year}" for year in YEARS]
    below = [Path(folder)] if folder is not None else [Path("images"), Path()]
    candidates = [base / name for base in below for name in splits] + below
    if folder is None:
        others = [base / name for base in below for name in (*split_names(short)[1:], "default")]
        candidates += [*others, *([beside] if beside else [])]
    looked_for = names[:: max(1, len(names) // LOOKED_AT)][:LOOKED_AT]
    found = [sum(_is_file(root / candidate / name) for name in looked_for) for candidate in candidates]
    if not names:
        return root / below[-1]
    if not max(found):  # as other programs spell names
        known = [Names(root / candidate) for candidate in candidates]
        found = [
            sum(_is_file(names.find(name)) for name in looked_for) if names.folder.is_dir() else 0 for names in known
        ]
    if not max(found):
        where = ", ".join(f"{base / name}/" for base in below for name in (*splits, ""))
        raise FnaError(
            f"none of the images of '{split}' ({names[0][:100]!a} ...) is below {root} in any of {where}; "
            "type --data.image_folder PATH, their folder below data.root"
        )
    return root / candidates[found.index(max(found))]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # ValueError: a NUL or an odd character in the name
        return False


def _json_files(root: Path) -> list[str]:
    """Return the json files a user may have meant, relative to `root`."""
    try:
        files = [path for folder in (root, root / "annotations") for path in folder.glob("*.json")]
    except OSError:
        return []
    return sorted(path.relative_to(root).as_posix() for path in files)
