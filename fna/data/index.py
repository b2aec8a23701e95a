"""Open splits: each is checked once, and its index, kept in a run folder, opens it again without decoding an image.

An index holds the records with their truths, what was left out or mended, and a stamp of every file that was read: a
file that is not as it was then is told, not silently learned from. Nothing here needs torch, so that a wrong path or a
flaw is told at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

from fna.config import DataConfig
from fna.data.cutting import Cut, Lists, cut, is_cut, read_pool, shares
from fna.data.hashes import near_copies
from fna.data.listing import data_root, overlap
from fna.data.recognising import find_package, pick_reader, recognise
from fna.data.stamps import compare, describe
from fna.errors import FnaError
from fna.files import decode_json, read_bytes, read_json, write_text
from fna.progress import say

FORMAT = 1
DECISIVE = (  # what an index depends on
    *("format", "train", "val", "image_folder", "classes", "labels", "ignore_label", "reduce_zero_label", "on_error"),
)
ANEW = "put the intact file back, or delete it and type --data.allow_change true to go on with the data as they are"
LISTS = "cut.lists.json"  # the names by split where ``data.split`` cut them; no split has such a file
REMARKS = 6  # on a split's data that the terminal shows


def open_splits(
    task: str, config: DataConfig, splits: Sequence[str], folder: Path | None = None, *, write: bool = True
) -> dict[str, Any]:
    """Open some splits of a data set, and say what is remarkable about them.

    Args:
        task: ``"segmentation"``, ``"detection"`` or ``"pose"``.
        config: the data set, and what to do with bad records and with changed files.
        splits: their names in the data set.
        folder: where their indices are kept; None: they are read and checked anew.
        write: whether to keep new indices; of several processes one does.

    Returns:
        The data by the name of the split.

    Raises:
        FnaError: a split is missing or has flaws, or its files changed since its index was made, or splits have
            different classes; one message for all splits.
    """
    package = find_package(task)
    opened: dict[str, Any] = {}
    problems: list[str] = []
    for split in dict.fromkeys(splits):
        try:
            opened[split] = _open(package, config, split, folder, write)
        except FnaError as error:
            problems.append(str(error))
    if problems:
        raise FnaError("\n".join(dict.fromkeys(problems)))
    _remark(package, config, opened, folder)
    return opened


def recall(task: str, config: DataConfig, split: str, folder: Path) -> Any:
    """Return a split as it was when it was opened last, by its index; its files may be gone. None: it never was."""
    package = find_package(task)
    if not pick_reader(package.FORMATS, config.format, task).on_disk:
        return package.open_data(config, split)
    return _indexed(package, config, split, folder)


def index_file(folder: Path, split: str) -> Path:
    """Return where the index of a split is kept.

    >>> index_file(Path("run/data"), "val").as_posix()
    'run/data/val.json'
    """
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", split)[:80]
    if safe != split:  # a path, or a list of videos: others may come to the same
        safe += f"-{hashlib.sha256(split.encode(errors='surrogateescape')).hexdigest()[:8]}"
    return folder / f"{safe}.json"


def image_ids(folder: Path) -> dict[str, Any]:
    """Return the numbers that the data sets with an index in `folder` know their images by, by file name.

    A name that stands for images of several numbers is left out.
    """
    found: dict[str, set[Any]] = {}
    for path in sorted(folder.glob("*.json")):
        with _damage_told(path):
            index = read_json(path)
            names = [image["name"] for image in index.get("images", ())]
            rows = [(row["name"], row["image_id"]) for row in index.get("records", ()) if "image_id" in row]
            rows += [(names[person["image"]], person["image_id"]) for person in index.get("people", ())]
        for name, number in rows:
            found.setdefault(Path(name).name, set()).add(number)
    return {name: numbers.pop() for name, numbers in found.items() if len(numbers) == 1}


def _open(package: ModuleType, config: DataConfig, split: str, folder: Path | None, write: bool) -> Any:
    """Open a split by its index, or anew."""
    reader = package.FORMATS.get(config.format)
    if folder is None or reader is None or not reader.on_disk:
        return package.open_data(config, split)
    root, path = data_root(config, reader), index_file(folder, split)
    index = _read(path, config, split)
    accepted: list[str] = []
    if index is not None:
        with _damage_told(path):
            compared = compare(index["files"], index["folders"], root)
        if not compared.changes:
            data = _restore(package, index, config, split, path)
            if compared.stamps and write:
                _write(path, {**index, "files": {**index["files"], **compared.stamps}})
            return data
        if not config.allow_change:
            raise FnaError(
                f"the files of '{split}' in {root} are not those that the run in {folder.parent} began with: "
                f"{'; '.join(describe(compared.changes))}; put them back, start another run, or type "
                "--data.allow_change true to go on with them as they are"
            )
        accepted = [*index["changed"], *describe(compared.changes)]
    lists = _lists(package, config, root, folder, write) if is_cut(config, split) else None
    data = package.open_data(config, split, None, lists)
    data.changed = accepted
    known = data.to_index(root) if write else None
    if known is not None:
        about = {"format": FORMAT, "settings": _settings(config, split), "changed": accepted}
        _write(path, {**about, **known, **data.sources.to_json(root)})
    return data


def _lists(package: ModuleType, config: DataConfig, root: Path, folder: Path, write: bool) -> Lists:
    """Return the names by split of a data set that ``data.split`` cuts: as it was cut at first, by the run's file."""
    path, settings = folder / LISTS, _settings(config, config.train)
    kept = _unsealed(path)
    if kept is not None and kept.get("settings") == settings:
        with _damage_told(path):
            return {split: list(kept[split]) for split in (config.train, *shares(config))}
    known = recognise(config, root, package.FORMATS)
    made: Cut = cut(read_pool(package.FORMATS[known.format], root, known).image_names, config)
    if write:
        _write(path, {"settings": settings, **made.lists})
        counts = ", ".join(f"{len(names)} {split}" for split, names in made.lists.items())
        say(f"data: cut by data.split into {counts} images{'; ' * bool(made.groups)}{made.groups}; the names: {path}")
    return made.lists


def _settings(config: DataConfig, split: str) -> dict[str, Any]:
    """Return what decides about a split, as JSON has it; a task may lack some of the settings."""
    chosen: dict[str, Any] = {key: getattr(config, key, None) for key in DECISIVE}
    for key in ("labels", "reduce_zero_label"):  # indices that were made before there were such settings stay valid
        if not chosen[key]:
            del chosen[key]
    if "labels" in chosen:
        chosen["labels"] = list(chosen["labels"].items())  # their order is that of the classes
    cut_by = {"cut": config.split.model_dump()} if shares(config) else {}
    settings: dict[str, Any] = json.loads(json.dumps({"split": split, **chosen, **cut_by}))
    return settings


def _read(path: Path, config: DataConfig, split: str) -> dict[str, Any] | None:
    """Return an index; None where there is none that was made with these settings."""
    index, made_with = _unsealed(path), {"format": FORMAT, "settings": _settings(config, split)}
    return index if index is not None and made_with.items() <= index.items() else None


def _unsealed(path: Path) -> dict[str, Any] | None:
    """Return what `_write` wrote; None where there is no such file."""
    if not path.exists():
        return None
    content = read_bytes(path)
    index = decode_json(path, content)
    if isinstance(index, dict) and "sha256" in index:
        first, _, rest = content.partition(b",\n")
        if first != _seal(rest).encode():
            raise FnaError(f"{path} is damaged (it has not the SHA-256 it was written with); {ANEW}")
    return index if isinstance(index, dict) else None


def _restore(package: ModuleType, index: Mapping[str, Any], config: DataConfig, split: str, path: Path) -> Any:
    """Return a split as its index, read from `path`, has it."""
    with _damage_told(path):
        data = package.open_data(config, split, index)
        data.changed = list(index["changed"])
    return data


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Turn what a spoilt index raises into an `FnaError`."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FnaError(f"{path} is damaged ({error!r}); {ANEW}") from error


def _write(path: Path, index: Mapping[str, Any]) -> None:
    """Write an index as JSON, a line a record, so that it is small and can be read by people, too.

    The first line has a digest of all others.
    """
    parts = []
    for key, value in index.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(json.dumps(item, allow_nan=False) for item in value) + "\n]"
        elif isinstance(value, dict) and value:
            text = "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n}"
        parts.append(f"{json.dumps(key)}: {text}")
    rest = ",\n".join(parts) + "\n}\n"
    write_text(path, f"{_seal(rest.encode())},\n{rest}")


def _seal(rest: bytes) -> str:
    """Return how an index begins whose other lines are `rest`."""
    return f'{{\n"sha256": "{hashlib.sha256(rest).hexdigest()}"'


# --- remarks ----------------------------------------------------------------------------------------------------------


def _remark(package: ModuleType, config: DataConfig, opened: Mapping[str, Any], folder: Path | None) -> None:
    """Say what was left out, accepted, or is in two splits; refuse splits of different classes."""
    for split, data in opened.items():
        if data.skipped:
            rest = len(data.skipped) - REMARKS
            more = f"; and {rest} more lines in metrics.json" if rest > 0 else ""
            say(f"data: split '{split}': {'; '.join(data.skipped[:REMARKS])}{more}")
        if data.changed:
            say(f"data: split '{split}' changed since the run began: {'; '.join(data.changed[:REMARKS])}")
    train = opened.get(config.train) or _indexed(package, config, config.train, folder)
    if train is None:
        return
    for split in (split for split in opened if split != config.train or split == config.val):
        _same_classes(config.train, train.classes, split, opened[split].classes)
        both = overlap(train, opened[split])
        if both:
            say(
                f"data: split '{split}': images that are in '{config.train}', too: {len(both)} "
                f"({', '.join(both[:3])}); the score will flatter every network"
            )
        copies = near_copies(opened[split], train) if split != config.train else []
        if copies:
            say(
                f"data: split '{split}': images that are nearly the same as one of '{config.train}': "
                f"{len({own for own, _ in copies})} ({', '.join(f'{own} as {other}' for own, other in copies[:3])}); "
                "the score will flatter every network"
            )


def _indexed(package: ModuleType, config: DataConfig, split: str, folder: Path | None) -> Any:
    """Return a split as its index tells, if there is one."""
    if folder is None:
        return None
    path = index_file(folder, split)
    index = _read(path, config, split)
    return None if index is None else _restore(package, index, config, split, path)


def _same_classes(train: str, learned: Sequence[str], split: str, scored: Sequence[str]) -> None:
    if tuple(learned) != tuple(scored):
        odd = next(pair for pair in zip_longest(learned, scored) if pair[0] != pair[1])
        raise FnaError(
            f"the splits name different classes: '{odd[0]}' in '{train}' is '{odd[1]}' in '{split}'; give both the "
            "same, in one order, or list them in data.classes"
        )
