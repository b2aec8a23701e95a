"""What the readers of detection data hand on: images and their annotations as written, nothing checked yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from fna.config import DataConfig
from fna.data.images import Pixels
from fna.data.listing import Mark
from fna.data.stamps import Sources
from fna.errors import FnaError, nearest

Corners = tuple[float, float, float, float]  # x0, y0, x1, y1

UNKNOWN_CLASS = "boxes of an unknown class"
UNREADABLE_BOX = "annotations that cannot be read"
SAME_ID = "annotations with the id of another one"
NO_IMAGE = "annotations of an unknown image"
MISSING_IMAGE = "missing images"
UNREADABLE_IMAGE = "images that cannot be read"
SAME_IMAGE = "images listed twice"
BAD_IMAGE = "images that the annotation file does not describe rightly"
MISSING_FILE = "missing annotation files"
BAD_FILE = "annotation files that cannot be read"


class Flaw(NamedTuple):
    """Something wrong: of which kind, where in the annotations, and what exactly."""

    kind: str
    place: str
    detail: str


@dataclass(frozen=True, slots=True)
class Box:
    """An annotation as written.

    Attributes:
        place: where it is: ``"annotation 17"``, ``"object 3"``, ``"line 5"``.
        corners: x0, y0, x1, y1 in pixels; anything else is a flaw that the checks find.
        label: class id.
        crowd: it stands for many things.
        difficult: finding it counts neither for nor against.
        area: of the thing in square pixels; None: that of the box.
        flaw: what the reader found wrong.
        keep: whether the flaw is mended by ignoring it.
    """

    place: str
    corners: Any
    label: int
    crowd: bool = False
    difficult: bool = False
    area: Any = None
    flaw: Flaw | None = None
    keep: bool = False


@dataclass(frozen=True)
class Record:
    """An image and its annotations.

    Attributes:
        name: the same for the same image in any split.
        path: of the image.
        image_id: as COCO's results name the image.
        boxes: may be empty: the image shows no thing of the classes.
        size_hw: what the annotations say the image measures; None: nothing.
        flaws: what makes the whole record useless.
        relative: the corners are shares of the image's width and height.
    """

    name: str
    path: Path
    image_id: int
    boxes: Sequence[Box] = ()
    size_hw: tuple[int, int] | None = None
    flaws: Sequence[Flaw] = ()
    relative: bool = False


@dataclass(frozen=True)
class DetectionListing:
    """The records of a split.

    Attributes:
        records: in the data set's order.
        classes: names by class id.
        category_ids: the data set's own number of each class.
        flaws: of annotations that belong to no record.
        notes: what is no mistake but may surprise, a line each.
        read: makes the image of a path; None: the paths are image files.
        sources: what was read to make the list.
    """

    records: Sequence[Record]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    flaws: Sequence[Flaw] = ()
    notes: tuple[str, ...] = ()
    read: Callable[[Path], Pixels] | None = None
    sources: Sources = field(default_factory=Sources)

    @property
    def image_names(self) -> Sequence[str]:
        """Names of the images, by which a split is cut."""
        return [record.name for record in self.records]

    def only(self, names: Set[str], learned: bool) -> DetectionListing:
        """Return the records of some images; flaws and notes of the whole go with those to learn from (`learned`)."""
        records = tuple(record for record in self.records if record.name in names)
        flaws, notes = (self.flaws, self.notes) if learned else ((), ())
        return replace(self, records=records, flaws=flaws, notes=notes, sources=self.sources.of_a_cut())


@dataclass(frozen=True)
class DetectionReader:
    """A data format: a function from (root, split, config) to a listing, and the layout expected below ROOT."""

    read: Callable[[Path, str, DataConfig], DetectionListing]
    layout: str
    on_disk: bool = True
    mark: Mark | None = None


def choose_classes(known: Sequence[str], wanted: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Return the classes to detect: all known ones, or the wanted ones in their order.

    Args:
        known: class names of the data set.
        wanted: ``data.classes``.
        where: what knows them, for messages.

    Raises:
        FnaError: there are none, or a wanted one is unknown or given twice, or two differ in case or blanks only.

    >>> choose_classes(["cat", "dog", "car"], ["dog", "cat"], "the json")
    ('dog', 'cat')
    """
    refuse_alike([name for name in known if wanted is None or name not in wanted], wanted or (), where)
    if wanted is None:
        if not known:
            raise FnaError(f"{where} names no classes; expected at least one")
        return tuple(known)
    check_classes(wanted)
    for name in wanted:
        if name not in known:
            shown = ", ".join(known[:30]) + (" ..." if len(known) > 30 else "")
            raise FnaError(f"data.classes has '{name}'{nearest(name, known)}, which {where} does not; it has {shown}")
    return tuple(wanted)


def refuse_alike(names: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raise an `FnaError` if a name is another one's, or a wanted one's, in other letters or blanks: one is a slip."""
    seen = {plain(name): name for name in wanted}
    for name in names:
        other = seen.setdefault(plain(name), name)
        if other != name:
            raise FnaError(
                f"{where} has the classes {other!r} and {name!r}, which differ in case or blanks only; give both one "
                f"name, or, if they are two, say so with --data.classes '[{other}, {name}]'"
            )


def plain(name: str) -> str:
    """Return a name as it is compared: letters and blanks do not tell classes apart.

    >>> plain(" White  Cell ")
    'white cell'
    """
    return " ".join(name.casefold().split())


def check_classes(wanted: Sequence[str]) -> None:
    """Raise an `FnaError` unless ``data.classes`` has names, each once."""
    if not wanted:
        raise FnaError("data.classes is empty; name at least one class, e.g. --data.classes '[person, car]'")
    twice = sorted({name for name in wanted if list(wanted).count(name) > 1})
    if twice:
        raise FnaError(f"data.classes has '{twice[0]}' more than once; expected a different name for each class")


def mark_repeated(records: Sequence[Record]) -> list[Record]:
    """Return the records; those whose image another one before has already are marked as flawed."""
    seen: dict[Path, str] = {}
    marked = []
    for record in records:
        if record.path in seen and not record.flaws:
            flaw = Flaw(SAME_IMAGE, "", f"{record.path.name} is there already, as {seen[record.path]}")
            record = Record(record.name, record.path, record.image_id, (), None, (flaw,))
        seen.setdefault(record.path, f"image {record.image_id}")
        marked.append(record)
    return marked
