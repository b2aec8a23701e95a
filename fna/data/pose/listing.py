"""What a reader of poses hands on: persons as the files describe them, with nothing checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from fna.config import DataConfig
from fna.data.images import Pixels, is_utf8
from fna.data.listing import Mark
from fna.data.stamps import Sources


@dataclass(frozen=True)
class Defect:
    """Something wrong.

    Attributes:
        what: the kind of mistake, the same for all that share it.
        who: image and person.
        detail: what was found there.
    """

    what: str
    who: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.who}: {self.what}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True)
class Record:
    """A person as a file describes it: `points`, `box` and `area` may be anything.

    Attributes:
        image: position of the image in the listing.
        who: what messages call the person.
        points: K times x, y, visibility, nested or flat, or `checks.Wrong`.
        box: x0, y0, width, height; None: the one around the joints; or `checks.Wrong`.
        area: of the person in square pixels; None: the box's.
        head: size of the head in pixels; None: the length of the segment from the neck to the top of the head.
        image_id: of the image, as the data set has it.
        id: of the person.
        crowd: it is several people.
    """

    image: int
    who: str
    points: Any
    box: Any = None
    area: Any = None
    head: float | None = None
    image_id: int | str = 0
    id: int = 0
    crowd: bool = False


@dataclass(frozen=True)
class PoseListing:
    """The persons of a split, their images not decoded.

    Attributes:
        joints: their names, in order.
        links: pairs of joints that a skeleton joins.
        paths: the images.
        names: what they are called, on any machine and in any split.
        records: the persons.
        sizes: what the files say of the images' height and width; None: nothing. () is nothing of any.
        problems: bad entries that are not among the records.
        notes: what is left out by rule, a line each.
        read: makes the image of a path; None: the paths are image files.
        ignored: people beside the records in whose place a find is neither right nor wrong.
        sources: what was read to make the list.
        relative: joints and boxes are shares of the image.
    """

    joints: tuple[str, ...]
    links: tuple[tuple[int, int], ...]
    paths: Sequence[Path]
    names: Sequence[str]
    records: Sequence[Record]
    sizes: Sequence[tuple[int, int] | None] = ()
    problems: Sequence[Defect] = ()
    notes: Sequence[str] = ()
    read: Callable[[Path], Pixels] | None = None
    ignored: Sequence[Record] = ()
    sources: Sources = field(default_factory=Sources)
    relative: bool = False

    @property
    def image_names(self) -> Sequence[str]:
        """Names of the images, by which a split is cut."""
        return self.names

    def only(self, names: Set[str], learned: bool) -> PoseListing:
        """Return the persons in some images; what is said of the whole goes with those to learn from (`learned`)."""
        chosen = [position for position, name in enumerate(self.names) if name in names]
        place = {position: number for number, position in enumerate(chosen)}
        records, ignored = (
            [replace(record, image=place[record.image]) for record in some if record.image in place]
            for some in (self.records, self.ignored)
        )
        paths, own = [self.paths[position] for position in chosen], [self.names[position] for position in chosen]
        sizes = [self.sizes[position] for position in chosen] if self.sizes else ()
        problems, notes = (self.problems, self.notes) if learned else ((), ())
        return replace(
            self,
            paths=paths,
            names=own,
            records=records,
            sizes=sizes,
            problems=problems,
            notes=notes,
            ignored=ignored,
            sources=self.sources.of_a_cut(),
        )


def in_pixels(record: Record, size_hw: tuple[int, int]) -> Record:
    """Return a person whose joints and box are shares of the image in its pixels."""
    height, width = size_hw
    x, y, wide, high = record.box
    points = [[px * width, py * height, seen] for px, py, seen in record.points]
    return replace(record, points=points, box=[x * width, y * height, wide * width, high * height])


@dataclass(frozen=True)
class PoseReader:
    """A data set family: a function from (root, split, config) to a listing, and the layout expected below ROOT."""

    read: Callable[[Path, str, DataConfig], PoseListing]
    layout: str
    on_disk: bool = True
    mark: Mark | None = None


def is_name(value: Any) -> TypeGuard[str]:
    """Tell whether something read from a file can name an image or a joint."""
    return isinstance(value, str) and value != "" and is_utf8(value)
