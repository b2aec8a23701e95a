"""What is wrong with the labels of all masks of a split together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fna.data.decoding import mask_palette
from fna.data.listing import IGNORE, Legend
from fna.data.segmentation.legend import label_text, one_label, suggestion
from fna.errors import FnaError

SHOWN = 10  # labels, or problems, listed in a message


class UnknownLabelsError(FnaError):
    """A mask has labels that are no class.

    Args:
        pixels: of each of them.
        legend: which are known.
    """

    def __init__(self, pixels: Mapping[int, int], legend: Legend) -> None:
        self.pixels = pixels
        bad = [f"{label_text(label, legend.colored)} ({n} pixels)" for label, n in pixels.items()]
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        known = _ranges(legend.labels) if not legend.colored else _texts(legend.labels, legend)
        super().__init__(f"the mask has unknown labels: {', '.join(bad[:SHOWN])}{more}; known: {known}")


def unknown_labels(errors: Mapping[str, UnknownLabelsError], legend: Legend) -> str:
    """Say which labels are unknown over all masks, with the first of them, and what to type; empty if none is.

    Args:
        errors: by the name of the image.
        legend: which are known.
    """
    masks: Counter[int] = Counter()
    first: dict[int, str] = {}
    for name, error in errors.items():
        masks.update(error.pixels.keys())
        first |= {label: first.get(label, name) for label in error.pixels}
    if not masks:
        return ""
    listed = [
        f"{label_text(label, legend.colored)} in {n} masks, such as that of {first[label]}"
        for label, n in sorted(masks.items())[:SHOWN]
    ]
    more = f"; and {len(masks) - SHOWN} more" if len(masks) > SHOWN else ""
    ignored = [label for label, class_id in legend.labels.items() if class_id == IGNORE]
    texts = ", ".join(label_text(label, legend.colored) for label in [*ignored, *sorted(masks)][: 2 * SHOWN])
    return (
        f"labels of no class: {'; '.join(listed)}{more}; give them one with data.labels, or ignore them with "
        f"--data.ignore_label '[{texts}]'\n"
    )


def refuse_palettes(where: str, masks: Sequence[Path], present: Sequence[Iterable[int]], legend: Legend) -> None:
    """Refuse masks whose palettes give one index different colours: what it means is not the same in all.

    Args:
        where: what messages call the split.
        masks: the files.
        present: the labels in each.
        legend: what they mean; where they are colours, palettes may differ.
    """
    seen: dict[int, tuple[tuple[int, int, int], str]] = {}
    for path, labels in zip(masks, present, strict=True):
        colors = None if legend.colored else mask_palette(path)
        for index in labels if colors else ():
            if colors is None or index >= len(colors) or legend.labels[index] == IGNORE:
                continue
            color, other = seen.setdefault(index, (colors[index], path.name))
            if color != colors[index]:
                raise FnaError(
                    f"{where}: the palettes of the masks contradict each other: index {index} is {color} in "
                    f"{other}, {colors[index]} in {path.name}; save all masks with one palette, or give data.labels in "
                    "colours, or, if the indices are right, save them as grey images"
                )


def refuse_absent(where: str, pixels: Mapping[int, int], masks: int, legend: Legend) -> None:
    """Refuse masks without a pixel of a class.

    Args:
        where: what messages call the split.
        pixels: by label, over all masks.
        masks: how many there are.
        legend: what the labels mean.
    """
    seen = {legend.labels[label] for label in pixels}
    absent = [name for class_id, name in enumerate(legend.classes) if class_id not in seen]
    if not absent:
        return
    texts = {label: label_text(label, legend.colored) for label in sorted(pixels)}
    if len(texts) == 1:
        raise FnaError(f"{where}: {one_label(texts[min(texts)], masks)}")
    found = [f"{text} ({pixels[label] / sum(pixels.values()):.0%})" for label, text in texts.items()]
    ignored = [text for label, text in texts.items() if legend.labels[label] == IGNORE]
    said = f", of which {' and '.join(ignored)} {'are' if len(ignored) > 1 else 'is'} ignored" if ignored else ""
    names = legend.classes if len(pixels) == len(legend.classes) else None
    raise FnaError(
        f"{where}: no pixel of any of {masks} masks is of the class '{absent[0]}'"
        f"{f' (nor of {len(absent) - 1} more)' if len(absent) > 1 else ''}; the masks have the labels "
        f"{', '.join(found[:SHOWN])}{said}; give the class of each label, such as "
        f"{suggestion(list(texts.values())[:SHOWN], names)}, or leave the class out"
    )


def absent_labels(pixels: Mapping[int, int], masks: int, legend: Legend) -> list[str]:
    """Return a remark on labels of classes with several, of which no mask has a pixel."""
    absent = [label for label, class_id in legend.labels.items() if class_id != IGNORE and label not in pixels]
    if not absent or not legend.own:
        return []
    listed = [f"{label_text(label, legend.colored)} ({legend.classes[legend.labels[label]]})" for label in absent]
    more = " ..." if len(listed) > SHOWN else ""
    return [f"labels of data.labels in none of {masks} masks: {', '.join(listed[:SHOWN])}{more}"]


def _texts(labels: Iterable[int], legend: Legend) -> str:
    texts = [label_text(label, legend.colored) for label in labels]
    return ", ".join(texts[:SHOWN]) + (" ..." if len(texts) > SHOWN else "")


def _ranges(values: Iterable[int]) -> str:
    """Write sorted whole numbers briefly.

    >>> _ranges([0, 1, 2, 5, 255])
    '0..2, 5, 255'
    """
    runs: list[list[int]] = []
    for number in sorted(values):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
