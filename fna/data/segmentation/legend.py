"""What the labels in masks mean: a format's own classes, or those of ``data.classes`` and ``data.labels``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fna.config import SegmentationDataConfig
from fna.config.labels import Label, quoted
from fna.data.decoding import read_mask
from fna.data.listing import IGNORE, Color, Legend, palette
from fna.errors import FnaError, nearest

MOST = IGNORE - 2  # classes, and labels
LOOKED_AT, PROPOSED_BY = 8, 400  # masks that tell what labels there are, in a message and for `fna data`
SHOWN = 12  # labels that a message shows


class UnnamedError(FnaError):
    """Nothing says what the labels of masks mean.

    Args:
        masks: all of them.
    """

    def __init__(self, masks: Sequence[Path]) -> None:
        super().__init__(_unreadable(masks) or _unlabelled(masks) or _what_to_name(masks))
        self.masks = masks


def read_legend(config: SegmentationDataConfig, masks: Sequence[Path], published: Legend | None = None) -> Legend:
    """Return what the labels of a data set mean.

    Args:
        config: ``data.classes``, ``labels``, ``ignore_label`` and ``reduce_zero_label``.
        masks: some are looked at to say which labels there are, where nothing else says it.
        published: of a format that has classes of its own; they count where the settings have none.

    Raises:
        FnaError: there are no classes, too many, or two alike; or the settings contradict each other.
    """
    first = int(config.reduce_zero_label)
    if config.labels is not None:
        if config.reduce_zero_label:
            raise FnaError("data.labels and data.reduce_zero_label both say what 0 is; leave one of them out")
        classes, named = _named(config.classes, config.labels), config.labels
    elif published is not None and config.classes in (None, published.classes):
        if config.reduce_zero_label:
            raise FnaError("data.reduce_zero_label is for classes of your own: name them in data.classes")
        more = {_number(label): IGNORE for label in config.ignore_label or ()}
        return Legend(published.classes, published.colors, {**published.labels, **more})
    elif config.classes is None:
        raise UnnamedError(masks)
    else:
        classes, named = config.classes, {first + number: name for number, name in enumerate(config.classes)}
    _check(classes)
    ignored = _ignored(config, named, published)
    if len(named) + len(ignored) > MOST:
        raise FnaError(f"data.labels has {len(named)} labels; expected at most {MOST - len(ignored)}")
    labels = {label: IGNORE for label in ignored} | {
        _number(label): classes.index(name) for label, name in named.items()
    }
    return Legend(classes, _colors(classes, named, published), labels, _colored(named), own=True)


def label_text(label: int, colored: bool) -> str:
    """Return a label as settings have it.

    >>> label_text(0x804000, True), label_text(7, False)
    ('"#804000"', '7')
    """
    return quoted(f"#{label:06x}" if colored else label)


def suggestion(labels: Iterable[str], names: Sequence[str] | None = None) -> str:
    """Return what to type for labels as `label_text` has them, and their names if they are known.

    >>> suggestion(["0", "255"])
    "--data.labels '{0: background, 255: NAME}'"
    """
    labels = list(labels)
    known = names or ["background", *("NAME" if len(labels) == 2 else f"NAME_{n}" for n in range(1, len(labels)))]
    pairs = ", ".join(f"{label}: {name}" for label, name in zip(labels, known, strict=False))
    return f"--data.labels '{{{pairs}}}'"


def propose_labels(masks: Sequence[Path]) -> dict[Label, str]:
    """Return labels with makeshift names for masks that nobody has named, by what is in them; few or none: {}."""
    found, colored = look(masks, PROPOSED_BY)
    labels: list[Label] = [f"#{label:06x}" if colored else label for label in found]
    if len(labels) > 2:
        labels = [label for label in labels if label != IGNORE]
    if not 2 <= len(labels) <= MOST:
        return {}
    return {label: "background" if label in (0, "#000000") else f"class_{n}" for n, label in enumerate(labels)}


def look(masks: Sequence[Path], most: int = LOOKED_AT) -> tuple[dict[int, int], bool]:
    """Return the pixels of each label in some masks, the labels sorted, and whether they are colours."""
    found: dict[int, int] = {}
    colored = False
    for mask in masks[:: max(1, len(masks) // most)][:most]:
        try:
            labels_HW: Any = read_mask(mask, colored=colored)
        except FnaError as error:
            if colored or "of mode RGB" not in str(error):
                continue  # whoever decodes it will say so
            found, colored = {}, True
            labels_HW = read_mask(mask, colored=True)
        for label, pixels in zip(*(part.tolist() for part in np.unique(labels_HW, return_counts=True)), strict=True):
            found[label] = found.get(label, 0) + pixels
    return dict(sorted(found.items())), colored


def one_label(text: str, masks: int) -> str:
    """Say that masks have one label only."""
    return (
        f"every mask (of {masks}) has the one label {text}: nothing is labelled; expected a label for each class, "
        "such as 0 for the background and 1 for leaves"
    )


def _unreadable(masks: Sequence[Path]) -> str:
    """Return why masks cannot be read, by the first of them; empty: some can, or there is none."""
    try:
        for mask in [] if look(masks)[0] else masks[:1]:
            read_mask(mask, colored=True)
    except FnaError as error:
        return str(error)
    return ""


def _unlabelled(masks: Sequence[Path]) -> str:
    """Say so where all masks have the same label only; empty: they have several, or none is there."""
    if len(look(masks)[0]) != 1:
        return ""
    found, colored = look(masks, PROPOSED_BY)
    return one_label(label_text(next(iter(found)), colored), len(masks)) if len(found) == 1 else ""


def _what_to_name(masks: Sequence[Path]) -> str:
    found, colored = look(masks)
    if not found or len(found) > MOST:
        return (
            "the classes are not named; give data.classes in the order of the labels, e.g. --data.classes "
            "'[background, leaf]'"
        )
    texts = [label_text(label, colored) for label in found]
    named = [text for text in texts if text != str(IGNORE)] if len(texts) > 2 else texts
    more = " ..." if len(texts) > SHOWN else ""
    return (
        f"the classes are not named; the masks have the labels {', '.join(texts[:SHOWN])}{more}: give each its class, "
        f"such as {suggestion(named[:SHOWN])} (or data.classes in the order of the labels)"
    )


def _named(wanted: tuple[str, ...] | None, labels: Mapping[Label, str]) -> tuple[str, ...]:
    """Return the classes of ``data.labels``, in the order of ``data.classes`` if it is given."""
    found = tuple(dict.fromkeys(labels.values()))
    if wanted is None:
        return found
    for name in found:
        if name not in wanted:
            raise FnaError(f"data.labels has the class '{name}'{nearest(name, wanted)}, which data.classes has not")
    for name in wanted:
        if name not in found:
            raise FnaError(f"data.classes has '{name}'{nearest(name, found)}, which no label of data.labels stands for")
    return wanted


def _check(classes: Sequence[str]) -> None:
    """Refuse too few, too many, and names that may be meant for the same."""
    if not 2 <= len(classes) <= MOST:
        raise FnaError(
            f"data.classes and data.labels name {len(classes)} classes; expected 2 to {MOST}, the background being "
            "one, e.g. --data.classes '[background, leaf]'"
        )
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(" ".join(name.casefold().split()), name)
        if other != name or classes.count(name) > 1:
            raise FnaError(
                f"data.classes has '{other}' and '{name}'; expected a different name for each class, in more than case "
                "and blanks"
            )


def _ignored(config: SegmentationDataConfig, named: Mapping[Label, str], published: Legend | None) -> list[int]:
    """Return the labels of no class: those of the setting, else the format's own or 255 if they are no class's."""
    zero = [0] if config.reduce_zero_label else []
    if config.ignore_label is None:
        usual = [IGNORE] if published is None else [k for k, v in published.labels.items() if v == IGNORE]
        return zero + [label for label in usual if label not in named and not _colored(named)]
    for label in config.ignore_label:
        if isinstance(label, str) != _colored(named):
            raise FnaError(f"data.ignore_label is {label}; expected labels as in data.labels, numbers or colours")
        if label in named:
            raise FnaError(_both(label, named, by_place=config.labels is None))
    return list(dict.fromkeys(zero + [_number(label) for label in config.ignore_label]))


def _both(label: Label, named: Mapping[Label, str], by_place: bool) -> str:
    text = f"data.ignore_label {label} is the label of the class '{named[label]}', too"
    if not by_place:
        return f"{text}; leave it out of one of them"
    first = "; if those of the masks count from 1, type --data.reduce_zero_label true" if label == 0 else ""
    return (
        f"{text}: labels are positions in data.classes, from 0{first}; if '{named[label]}' is no class, leave it out "
        "of data.classes, and give the labels of the others with --data.labels"
    )


def _colors(classes: Sequence[str], named: Mapping[Label, str], published: Legend | None) -> tuple[Color, ...]:
    """Return a colour a class: that of its label, else the format's own, else one of VOC's."""
    known = dict(zip(published.classes, published.colors, strict=True)) if published else {}
    colors = dict(zip(classes, palette(len(classes)), strict=True)) | {n: c for n, c in known.items() if n in classes}
    for label, name in reversed(list(named.items())):  # of several labels the first counts
        if isinstance(label, str):
            number = _number(label)
            colors[name] = (number >> 16, number >> 8 & 255, number & 255)
    return tuple(colors[name] for name in classes)


def _colored(named: Mapping[Label, str]) -> bool:
    return isinstance(next(iter(named), 0), str)


def _number(label: Label) -> int:
    return int(label[1:], 16) if isinstance(label, str) else label
