"""What every reader needs: the folder of a data set, its split files, and the `Listing` it hands on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fna.config import DataConfig, SegmentationDataConfig
from fna.data.decoding import read_image, read_mask
from fna.data.places import MissingSplitError
from fna.data.stamps import Sources, Stamp
from fna.errors import FnaError, nearest
from fna.files import read_text

VOC_CLASSES = (  # of Pascal VOC, in the order of its palette
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
IGNORE = 255  # the class id of pixels without a class
Color = tuple[int, int, int]
Mark = Callable[[Path, Any], str]  # (root, data settings) -> by what a format is recognised, "maybe ..." if not surely
Arrays = tuple[NDArray[np.uint8], NDArray[np.int32] | NDArray[np.uint8]]


@dataclass(frozen=True)
class Legend:
    """What the labels in masks mean.

    Attributes:
        classes: names by class id.
        colors: RGB by class id, for pictures.
        labels: label in a mask -> class id or `IGNORE`; others are mistakes. Colours: 65536 x red + 256 x green + blue.
        colored: whether labels are colours.
        own: whether the classes are the user's own, each of which must have a pixel to be learned.
    """

    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    labels: Mapping[int, int]
    colored: bool = False
    own: bool = False


@dataclass(frozen=True)
class Listing:
    """The records of a split, not decoded yet.

    Attributes:
        names: a name per record, the same for the same image in any split.
        legend: what the labels mean.
        read: position -> RGB image (height, width, 3) and label mask (height, width) as stored; `Pairs` of files.
        sources: what was read to make the list.
        learned: whether it is to learn from.
    """

    names: tuple[str, ...]
    legend: Legend
    read: Callable[[int], Arrays]
    sources: Sources = field(default_factory=Sources)
    learned: bool = False

    @property
    def image_names(self) -> Sequence[str]:
        """Names of the images, by which a split is cut."""
        return self.names

    def only(self, names: Set[str], learned: bool) -> Listing:
        """Return the records of some images; `learned`: to learn from."""
        chosen = [position for position, name in enumerate(self.names) if name in names]
        own, read = tuple(self.names[position] for position in chosen), _Some(self.read, chosen).pairs()
        return replace(self, names=own, read=read, sources=self.sources.of_a_cut(), learned=learned)


@dataclass(frozen=True)
class Reader:
    """A data set family: a function from (root, split, config) to a `Listing`, and the layout expected below ROOT."""

    read: Callable[[Path, str, SegmentationDataConfig], Listing]
    layout: str
    on_disk: bool = True
    mark: Mark | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of a record without its pixels.

    Attributes:
        path: of the image; what is drawn has none.
        size_hw: of the image, in pixels.
        counts: pixels, boxes or labelled joints by class id; `IGNORE`: of no class.
        things: height and width of each box, or of the person, in pixels.
    """

    path: Path
    size_hw: tuple[int, int]
    counts: Mapping[int, int]
    things: Sequence[tuple[float, float]] = ()


class Family(Protocol):
    """A reader of any task: the layout it expects below ROOT, and whether there is a ROOT at all."""

    @property
    def layout(self) -> str:
        """Return the files expected, for messages."""

    @property
    def on_disk(self) -> bool:
        """Tell whether the data are files."""


@dataclass(frozen=True)
class Pairs:
    """The image and the mask files of records, by position, and whether labels are colours; a call decodes a pair."""

    images: Sequence[Path]
    masks: Sequence[Path]
    colored: bool = False

    def __call__(self, position: int, stamps: dict[Path, Stamp] | None = None) -> Arrays:
        """Return the image and the mask at a position, and note the stamps of their files if they are wanted."""
        return read_image(self.images[position], stamps), read_mask(self.masks[position], stamps, self.colored)


@dataclass(frozen=True)
class _Some:
    """Some of the records that a function reads."""

    read: Callable[[int], Arrays]
    chosen: Sequence[int]

    def pairs(self) -> Callable[[int], Arrays]:
        """Return what reads them: `Pairs` of `Pairs`."""
        if not isinstance(self.read, Pairs):
            return self
        images, masks = ([files[i] for i in self.chosen] for files in (self.read.images, self.read.masks))
        return replace(self.read, images=images, masks=masks)

    def __call__(self, position: int) -> Arrays:
        return self.read(self.chosen[position])


def data_root(config: DataConfig, reader: Family) -> Path:
    """Return the data set's folder; of a format that is not on disk, any.

    Raises:
        FnaError: it is not given or not a folder; the message shows the layout and the nearest name that exists.
    """
    if not reader.on_disk:
        return Path()
    if config.root is None:
        raise FnaError(f"no data folder given; type --data.root PATH, a folder with\n{reader.layout}")
    root = Path(config.root).expanduser()
    if not _is_dir(root):
        raise FnaError(
            f"there is no data folder {root}{_nearest_path(root)}; --data.root must be one with\n{reader.layout}"
        )
    return root


def require_dir(path: Path, layout: str) -> Path:
    """Return `path` if it is a folder, else say which layout was expected."""
    if not _is_dir(path):
        raise FnaError(f"there is no folder {path}{_nearest_path(path)}; expected\n{layout}")
    return path


def split_lines(path: Path, layout: str) -> list[tuple[int, str]]:
    """Return the lines of a split file that are not blank, with their numbers (from 1).

    Raises:
        FnaError: the file is missing (with the splits that exist), not UTF-8 text, or without records.
    """
    try:
        text = read_text(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        splits = sorted(p.stem for p in path.parent.glob("*.txt"))
        hint = nearest(path.stem, splits) + (f"; splits here: {', '.join(splits[:10])}" if splits else "")
        raise MissingSplitError(f"there is no split file {path}{hint}; expected\n{layout}") from error
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise FnaError(f"cannot read the split file {path}: {error}; expected a UTF-8 text\n{layout}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise FnaError(f"the split file {path} lists nothing; expected\n{layout}")
    return lines


def refuse_outside(paths: Iterable[Path], root: Path, config: DataConfig, what: str) -> None:
    """Refuse names in lists and annotations that lead out of the data's folder, unless ``data.allow_outside``.

    Links in the folder are the user's own, and are followed.

    Args:
        paths: made from such names.
        root: the data's folder; ``data.image_folder``, if it is elsewhere, is one, too.
        config: the settings.
        what: the paths are: ``"images of 'train'"``.

    Raises:
        FnaError: naming the first of them.
    """
    if config.allow_outside:
        return
    bases = [os.path.abspath(root), os.path.abspath(root / (config.image_folder or ""))]
    strays = [path for path in paths if not any(_is_below(os.path.abspath(path), base) for base in bases)]
    if strays:
        shown = ascii(str(strays[0]))[1:-1]
        raise FnaError(
            f"{len(strays)} {what} are outside the data's folder {root}: {shown} ...; put the files or links to them "
            "into it, or, if you trust this data set to name files anywhere, type --data.allow_outside true"
        )


def _is_below(path: str, base: str) -> bool:
    return path == base or path.startswith(base.rstrip(os.sep) + os.sep)


def class_labels(classes: int, *ignored: int | None) -> dict[int, int]:
    """Return the label table of a format whose labels are the class ids, and `ignored` labels (None: no label).

    >>> class_labels(2, 255, None)
    {0: 0, 1: 1, 255: 255}
    """
    return {label: label for label in range(classes)} | {label: IGNORE for label in ignored if label is not None}


def overlap(train: Any, val: Any) -> list[str]:
    """Return the names of images that are in both splits: scores on them say little."""
    learned = {train.name(index) for index in range(len(train))}
    return [name for name in dict.fromkeys(map(val.name, range(len(val)))) if name in learned]


def palette(n: int) -> tuple[Color, ...]:
    """Return the n first colours of Pascal VOC: class ids spread bit by bit over R, G and B."""
    bits = range(8)
    return tuple(
        (
            sum((i >> 3 * b & 1) << 7 - b for b in bits),
            sum((i >> 3 * b + 1 & 1) << 7 - b for b in bits),
            sum((i >> 3 * b + 2 & 1) << 7 - b for b in bits),
        )
        for i in range(n)
    )


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _nearest_path(path: Path) -> str:
    try:
        return nearest(path.name, os.listdir(path.parent))
    except (OSError, ValueError):
        return ""
