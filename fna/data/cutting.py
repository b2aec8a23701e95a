"""Cut a data set without lists into train, val and test: by hashes of names, so that the same data are cut the same.

Whole groups go together where names tell them, or the score would be of what was learned: augmented copies of an image
(``cell_jpg.rf.5a1b.jpg``) and frames of a video (``street_0001.png``, ``street/0001.png``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fna.config import DataConfig
from fna.data.places import WHOLE, MissingSplitError
from fna.errors import FnaError

FAIR = (0.5, 1.6)  # what a split may get, x its share, for groups to be kept together
COPY = re.compile(r"[._]rf[._][0-9A-Za-z]+$")  # Roboflow's copies of one image
FRAME = re.compile(r"[ _.-]*(?:frame|img|image|f)?[ _.-]*\(?\d+\)?$", re.IGNORECASE)
Lists = Mapping[str, Sequence[str]]  # names of images by split


class Cut(NamedTuple):
    """A cut: names of images by split, and what was kept together."""

    lists: dict[str, list[str]]
    groups: str


def shares(config: DataConfig) -> dict[str, float]:
    """Return the share of each split that ``data.split`` cuts, by the split's own name."""
    said = {config.val: config.split.val, config.test: config.split.test}
    return {name: share for name, share in said.items() if share is not None}


def is_cut(config: DataConfig, split: str) -> bool:
    """Tell whether a split is what a cut made of the data set."""
    return bool(shares(config)) and split in (config.train, *shares(config))


def read_split(reader: Any, root: Path, split: str, config: DataConfig, lists: Lists | None = None) -> Any:
    """Return the listing of a split: the data set's own, or what ``data.split`` cuts.

    Args:
        reader: of the format.
        root: the data set's folder.
        split: its name.
        config: the settings.
        lists: a cut that was made before; None: it is made now.

    Raises:
        FnaError: there is no such split (the message says how to cut one), or it is there and to be cut as well.
    """
    if is_cut(config, split):
        pool = read_pool(reader, root, config)
        names = (lists or cut(pool.image_names, config).lists)[split]
        return pool.only(set(names), split == config.train)
    try:
        return reader.read(root, split, config)
    except MissingSplitError as error:
        advice = _advice(reader, root, split, config)
        said = str(error).partition("; expected\n")[0] if advice else str(error)  # the layout is not what is wrong
        raise MissingSplitError(said + advice) from error


def read_pool(reader: Any, root: Path, config: DataConfig) -> Any:
    """Return the listing that is cut: the training split, or all there is where there are no splits.

    Raises:
        FnaError: the format has no such listing here, or the data set has one of the splits itself.
    """
    try:
        pool = reader.read(root, config.train, config)
    except MissingSplitError:
        return reader.read(root, WHOLE, config.model_copy(update={"train": WHOLE}))
    for name in shares(config):
        if _reads(reader, root, name, config):
            key = "val" if name == config.val else "test"
            raise FnaError(
                f"{root} has a split '{name}' of its own, and data.split.{key} is {shares(config)[name]:g}: leave it "
                f"out to use the data set's (--data.split.{key} null)"
            )
    return pool


def cut(names: Sequence[str], config: DataConfig) -> Cut:
    """Cut names into the training split and those of ``data.split``.

    Raises:
        FnaError: there are too few.
    """
    wanted, distinct = shares(config), list(dict.fromkeys(names))
    rules: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("frames of a video and copies of an image stay together", video_of),
        ("copies of an image stay together", source_of),
    )
    for text, rule in rules:
        groups: dict[str, list[str]] = {}
        for name in distinct:
            groups.setdefault(rule(name), []).append(name)
        lists = _deal(groups, wanted, config.train)
        sizes = {split: len(lists[split]) / (share * len(distinct)) for split, share in wanted.items()}
        if lists[config.train] and all(FAIR[0] <= size <= FAIR[1] for size in sizes.values()):
            order = {name: position for position, name in enumerate(distinct)}
            grouped = text if len(groups) < len(distinct) else ""
            return Cut({split: sorted(own, key=order.__getitem__) for split, own in lists.items()}, grouped)
    raise FnaError(
        f"{len(distinct)} images are too few to be cut by data.split into {config.train}, {', '.join(wanted)}: give "
        "larger shares, or more images"
    )


def source_of(name: str) -> str:
    """Return what an augmented copy was made of.

    >>> source_of("train/cell_jpg.rf.5a1b.jpg")
    'cell_jpg'
    """
    return COPY.sub("", PurePosixPath(name).stem)


def copies_of(name: str) -> str:
    """Return what all augmented copies of an image in a folder have in common.

    >>> copies_of("train/cell_jpg.rf.5a1b.jpg"), copies_of("a/0001.png")
    ('train/cell_jpg', 'a/0001')
    """
    return f"{PurePosixPath(name).parent}/{source_of(name)}"


def video_of(name: str) -> str:
    """Return what a name begins with before the number of the frame, with its folder; the source where it has none.

    >>> video_of("street_frame_0001.png"), video_of("a/0001.png"), video_of("cat.jpg")
    ('street', 'a/', 'cat')
    """
    path = PurePosixPath(name)
    source = COPY.sub("", path.stem)
    folder = f"{path.parent.name}/" if path.parent.name else ""
    base = re.sub(r"_(jpe?g|png|bmp)$", "", source)
    video = FRAME.sub("", base)
    return f"{folder}{video}" if video != base else source


def _deal(groups: Mapping[str, Sequence[str]], wanted: Mapping[str, float], rest: str) -> dict[str, list[str]]:
    """Give groups, in the order of their hashes, to the first split that still lacks half of them, else to `rest`."""
    total = sum(map(len, groups.values()))
    missing = {split: share * total for split, share in wanted.items()}
    lists: dict[str, list[str]] = {rest: [], **{split: [] for split in wanted}}
    for group in sorted(groups, key=lambda group: hashlib.sha256(group.encode(errors="surrogateescape")).digest()):
        size = len(groups[group])
        split = next((split for split, lacks in missing.items() if lacks >= size / 2), rest)
        lists[split] += groups[group]
        if split in missing:
            missing[split] -= size
    return lists


def _advice(reader: Any, root: Path, split: str, config: DataConfig) -> str:
    """Return what to type where a split is not there, but could be cut."""
    if split not in (config.train, config.val, config.test):
        return ""
    learned = split != config.train and _reads(reader, root, config.train, config)
    if not learned and not _reads(reader, root, WHOLE, config.model_copy(update={"train": WHOLE})):
        return ""
    if not learned:
        return (
            "\n  (there are no lists of splits; to have the images cut into train, val and test, type "
            "--data.split '{val: 0.15, test: 0.15}')"
        )
    key = "test" if split == config.test and split != config.val else "val"
    return f"\n  (to have it cut out of '{config.train}', type --data.split.{key} 0.15)"


def _reads(reader: Any, root: Path, split: str, config: DataConfig) -> bool:
    try:
        reader.read(root, split, config)
    except FnaError:
        return False
    return True
