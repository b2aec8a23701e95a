"""What is in a data set: counts by class and split, sizes, absent and rare classes, copies and flaws. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fna.config import TASKS, Config, DataConfig, make_config, merge
from fna.config.data import SplitConfig
from fna.data.cutting import cut, is_cut, read_pool, shares
from fna.data.hashes import near_pairs
from fna.data.listing import IGNORE, Facts, data_root
from fna.data.places import WHOLE, MissingSplitError
from fna.data.recognising import AUTO, find_marks, find_package, inside, pick_reader, recognise
from fna.data.segmentation.legend import UnnamedError, propose_labels
from fna.data.segmentation.regions import regions
from fna.errors import FnaError, pick

ORDER = ("pose", "segmentation", "detection")  # what says more about an image first
UNITS = {"segmentation": "pixels", "detection": "boxes", "pose": "joints"}
CUT = SplitConfig(val=0.15, test=0.15)  # what is proposed where there are no splits
PERSON = (256, 192)  # height, width of a crop; the default is one of scenes
MASKS = 100  # evenly spread, in which regions are looked for
REGIONS = {"small": 0.05, "median": 0.5, "large": 0.95}  # shares of a class's pixels
FEW_IMAGES, FEW_SHARE = 10, 0.005  # a class in fewer images, or with less of all, is rare


@dataclass(frozen=True)
class Survey:
    """A data set, looked through.

    Attributes:
        config: the settings it was read with: those given, the rest as found.
        opened: the data by split.
        found: what `fna data --json` prints.
    """

    config: Config
    opened: Mapping[str, Any]
    found: dict[str, Any]


def settle(root: Path, settings: Sequence[str]) -> tuple[Config, list[str]]:
    """Return the configuration by which a folder can be read, and for which other tasks it can.

    Args:
        root: the data set's folder.
        settings: ``key=value``, which decide where they are given.

    Raises:
        FnaError: no data set is recognised, or it has mistakes before any image is read.
    """
    named = any(text.startswith(("task.name=", "task.model=")) for text in settings)
    errors: list[FnaError] = []
    ways: list[Config] = []
    for task in ("",) if named else ORDER:
        about: dict[str, Any] = {"task": {"name": task}} if task else {}
        about["data"] = {"root": str(root), **({"crop": list(PERSON)} if task == "pose" else {})}
        try:
            config = make_config(merge(about, settings), "fna data")
            if named or _is_marked(config, root):
                _try(config)
                ways.append(config)
        except FnaError as error:  # settings, or files, of another task
            errors.append(error)
    if ways:
        return ways[0], [config.task.name for config in ways[1:]]
    if errors:
        raise errors[-1]
    raise FnaError(
        f"no data set is recognised in {root}, which has {inside(root)}; `fna list formats` shows what is; give the "
        f"task and the format: --task.name {'|'.join(TASKS)} --data.format NAME"
    )


def _is_marked(config: Config, root: Path) -> bool:
    """Tell whether a folder looks like one of a task, or the format that is given is one of its."""
    formats = find_package(config.task.name).FORMATS
    if config.data.format != AUTO:
        everywhere = {name for task in TASKS for name in find_package(task).FORMATS}
        pick(dict.fromkeys(everywhere), config.data.format, "data format")
        return config.data.format in formats
    return bool(find_marks(config.data, root, formats))


def _try(config: Config) -> None:
    """Read the annotations; that nothing names the labels of masks is no mistake here."""
    with suppress(UnnamedError):
        _find_train(config)


def survey(config: Config) -> Survey:
    """Read and check all splits of a data set.

    Args:
        config: as of a recipe, or of `settle`. Where it leaves the format, the cut or the labels' names open, they are
            found.
    """
    task = config.task.name
    data, notes = _complete(config)
    opened, remarks = _open(task, data)
    found: dict[str, Any] = {
        **{"root": data.root, "task": task, "format": data.format, "unit": UNITS[task], "notes": notes},
        "splits": {split: _count(own) for split, own in opened.items()},
        "flaws": sum(data.flaws for data in opened.values()),
        **{"remarks": remarks, "things": _things(opened), "copies": _copies(opened)},
    }
    found |= _lacking(found["splits"], data.train)
    if task == "segmentation" and data.train in opened:
        found["regions"] = _regions(opened[data.train])
    return Survey(config.model_copy(update={"data": data}), opened, found)


# --- settings that the data answer ------------------------------------------------------------------------------------


def _find_train(config: Config) -> bool:
    """Read the annotations of the training split, or of all there is; tell whether there is such a split."""
    formats = find_package(config.task.name).FORMATS
    root = data_root(config.data, pick_reader(formats, config.data.format, config.task.name))
    data = recognise(config.data, root, formats)
    try:
        formats[data.format].read(root, data.train, data)
    except MissingSplitError:
        formats[data.format].read(root, WHOLE, data.model_copy(update={"train": WHOLE}))
        return False
    return True


def _complete(config: Config) -> tuple[DataConfig, list[str]]:
    """Return the data's settings with what they leave open, and what was chosen."""
    formats, notes = find_package(config.task.name).FORMATS, []
    root = data_root(config.data, pick_reader(formats, config.data.format, config.task.name))
    data = recognise(config.data, root, formats)
    trained = False  # or masks whose labels have no names kept it from being read
    try:
        trained = _find_train(config)
    except UnnamedError as error:
        labels = propose_labels(error.masks)
        if not labels:
            raise
        data = data.model_copy(update={"labels": labels})
        notes.append("the classes have no names yet: rename them in data.labels")
    reader = formats[data.format]
    train = [data.train] if trained or _is_there(reader, root, data.train, data) else []
    there = [*train, *([data.val] if _is_there(reader, root, data.val, data) else [])]
    if reader.on_disk and not shares(data) and data.val not in there:
        cut_as = data.model_copy(update={"split": CUT if data.train not in there else SplitConfig(val=CUT.val)})
        try:
            cut(read_pool(reader, root, cut_as).image_names, cut_as)
        except FnaError:
            notes.append("there are no lists of splits, and too few images to be cut")
            return data.model_copy(update={"train": WHOLE}), notes
        data = cut_as
        notes.append("there are no lists of splits: as data.split would cut it" if not there else "there is no val")
    return data, notes


def _is_there(reader: Any, root: Path, split: str, data: DataConfig) -> bool:
    try:
        reader.read(root, split, data)
    except MissingSplitError:
        return False
    except FnaError:
        return True  # with mistakes, which are listed when it is opened
    return True


def _open(task: str, data: DataConfig) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Open the splits that are there; what is wrong or remarkable in each."""
    package = find_package(task)
    reader = package.FORMATS.get(data.format)
    opened: dict[str, Any] = {}
    remarks: dict[str, list[str]] = {}
    update = {"cache_gb": 0.0, "on_error": "fix" if data.on_error == "fail" else data.on_error}
    lists = None
    if shares(data):
        lists = cut(read_pool(reader, data_root(data, reader), data).image_names, data).lists
    for split in dict.fromkeys((data.train,) if data.train == WHOLE else (data.train, data.val, data.test)):
        try:
            own = lists if is_cut(data, split) else None
            opened[split] = package.open_data(data.model_copy(update=update), split, None, own)
        except MissingSplitError as error:
            if split != data.test:
                remarks[split] = [str(error)]
        except FnaError as error:
            remarks[split] = str(error).splitlines()
        else:
            remarks |= {split: list(opened[split].skipped)} if opened[split].skipped else {}
    return opened, remarks


# --- counting ---------------------------------------------------------------------------------------------------------


def _facts(data: Any) -> Iterator[tuple[str, Facts]]:
    for index in range(len(data)):
        yield data.name(index), data.facts(index)


def _count(data: Any) -> dict[str, Any]:
    """Return the numbers of a split."""
    sizes: dict[str, tuple[int, int]] = {}
    total: Counter[int] = Counter()
    images: dict[int, set[str]] = {}
    for name, facts in _facts(data):
        sizes[name] = facts.size_hw
        total.update(facts.counts)
        for class_id, n in facts.counts.items():
            if n:
                images.setdefault(class_id, set()).add(name)
    classes = {
        name: {"count": total[class_id], "images": len(images.get(class_id, ()))}
        for class_id, name in enumerate(data.classes)
    }
    commonest = Counter(sizes.values()).most_common()
    by_area = sorted(dict(commonest), key=lambda size: size[0] * size[1])
    return {
        **{"images": len(sizes), "records": len(data), "classes": classes, "ignored": total[IGNORE]},
        "sizes": {
            **{"smallest": by_area[0], "largest": by_area[-1], "different": len(by_area)},
            **{"commonest": commonest[0][0], "of": commonest[0][1]},
        },
    }


def _things(opened: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how large boxes or people are, in pixels and as shares of their image; None: there are none."""
    rows = [
        (height, width, height / facts.size_hw[0], width / facts.size_hw[1])
        for data in opened.values()
        for _, facts in _facts(data)
        for height, width in facts.things
    ]
    if not rows:
        return None
    height_N, width_N, tall_N, wide_N = np.array(rows).T
    sides, shares_N = np.sqrt(height_N * width_N), np.sqrt(tall_N * wide_N)
    marks = {"smallest": 0, "small": 5, "median": 50, "large": 95, "largest": 100}
    return {
        **{name: round(float(np.percentile(sides, percent)), 1) for name, percent in marks.items()},
        "share": {name: round(float(np.percentile(shares_N, percent)), 4) for name, percent in marks.items()},
        "height_by_width": round(float(np.median(height_N / width_N)), 2),
        "height": round(float(np.median(height_N)), 1),
    }


def _regions(data: Any) -> dict[str, Any]:
    """Return how large the regions of each class are, as roots of areas: 5, 50, 95 % of its pixels are in those."""
    chosen = np.unique(np.linspace(0, len(data) - 1, min(len(data), MASKS)).round().astype(int))
    found = [regions(data.sample(index).mask) for index in chosen.tolist()]
    class_R, pixels_R = (np.concatenate(parts) for parts in zip(*found, strict=True))
    classes = {}
    for class_id, name in enumerate(data.classes):
        own_n = np.sort(pixels_R[class_R == class_id])
        share_n = np.cumsum(own_n) / max(1, own_n.sum())
        if len(own_n):
            places = {mark: np.searchsorted(share_n, share) for mark, share in REGIONS.items()}
            classes[name] = {mark: round(float(own_n[place]) ** 0.5, 1) for mark, place in places.items()}
    return {"images": len(chosen), "classes": classes}


def _lacking(splits: Mapping[str, Any], train: str) -> dict[str, Any]:
    """Return the classes that a split lacks, and those that are rare where it is learned."""
    absent = {
        split: [name for name, own in counts["classes"].items() if not own["count"]] for split, counts in splits.items()
    }
    classes = splits[train]["classes"] if train in splits else {}
    total = sum(own["count"] for own in classes.values()) or 1
    few = min(FEW_IMAGES, splits[train]["images"] // 4) if classes else 0
    rare = [
        name
        for name, own in classes.items()
        if own["count"] and (own["images"] < few or own["count"] < FEW_SHARE * total)
    ]
    return {"absent": {split: names for split, names in absent.items() if names}, "rare": rare}


def _copies(opened: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Return images that are there twice: byte for byte, or nearly; pairs of ``SPLIT: NAME``."""
    places: list[tuple[str, int, str]] = []  # what it is called, its hash, its digest
    for split, data in opened.items():
        seen: set[str] = set()
        for index in range(len(data)):
            name, number = data.name(index), data.hash(index)
            if name not in seen and number is not None:
                stamp = data.sources.stamps.get(data.facts(index).path)
                places.append((f"{split}: {name}", number, stamp.sha256 if stamp else ""))
                seen.add(name)
    hashes = [number for _, number, _ in places]
    same: list[list[str]] = []
    near: list[list[str]] = []
    for i, j in near_pairs(hashes, hashes):
        if i < j:
            equal = places[i][2] and places[i][2] == places[j][2]
            (same if equal else near).append([places[i][0], places[j][0]])
    return {"exact": same, "near": near}
