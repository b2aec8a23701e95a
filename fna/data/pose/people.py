"""Persons with joints: every image is decoded and every person checked once before anything is learned from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fna.data.hashes import read_hashes, write_hash
from fna.data.images import Images
from fna.data.listing import Color, Facts
from fna.data.pose.checks import Box, check
from fna.data.pose.joints import head_segment, joint_colors, mirror
from fna.data.pose.listing import Defect, PoseListing, Record, in_pixels
from fna.data.stamps import Sources, below
from fna.errors import FnaError

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 10  # kinds of problems listed in an error message
NAMED = 3  # examples of each of them


@dataclass(frozen=True)
class Person:
    """A checked person; see `Record`. `points` are float32 (K, 3), `head` is nan where it is unknown or 0."""

    image: int
    points: NDArray[np.float32]
    box: Box
    area: float
    head: float
    image_id: int | str
    id: int
    crowd: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the person ready for JSON."""
        return {**vars(self), "points": self.points.tolist(), "head": None if math.isnan(self.head) else self.head}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Person:
        """Return the person that `to_json` wrote."""
        points_K3, (x0, y0, width, height) = np.array(record["points"], np.float32), record["box"]
        head = math.nan if record["head"] is None else record["head"]
        return cls(**{**record, "points": points_K3, "box": (x0, y0, width, height), "head": head})


@dataclass(frozen=True)
class Known:
    """What an index has of a split: height and width of every image, its records and the people to ignore."""

    sizes: Sequence[tuple[int, int]]
    people: Sequence[Person]
    ignored: Sequence[Person]


@dataclass
class _Findings:
    """What the checks found over all persons.

    Attributes:
        defects: and whether they were mended.
        outside: labelled joints outside their image.
        inside: how many joints are labelled inside their image.
        at_zero: how many joints are labelled at exactly 0, 0.
        unlabelled: how many persons have no labelled joint.
        spoilt: how many people to ignore cannot be, as their record or image is bad.
    """

    defects: list[tuple[Defect, bool]] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    inside: int = 0
    at_zero: int = 0
    unlabelled: int = 0
    spoilt: int = 0


class PoseData:
    """Persons with the joints that are labelled.

    Making one decodes every image with a person, unless an index has them; as many as `cache_gb` allows stay in
    memory.

    Args:
        listing: the persons.
        where: what error messages call the split.
        on_error: ``"fail"``: bad records raise one error that lists them; ``"fix"``: they are mended where possible,
            else left out; ``"skip"``: they are left out.
        cache_gb: memory for decoded images, in 1e9 bytes.
        known: what an index has of the images and persons; None: all are checked now.

    Attributes:
        classes: the joints' names.
        colors: RGB by joint.
        links: pairs of joints that a skeleton joins.
        groups: (), one group: all crops are alike.
        ignored: people who are no records, and in whose place a find is neither right nor wrong.
        skipped: what was mended or left out, a line each; then, in numbers, what the rules leave out.
        flaws: how many there were when it was checked now.
        changed: what changed since the index was made and was accepted, a line each.
        sources: the files that were read.

    Raises:
        FnaError: bad records (``"fail"``), or no joint to learn.
    """

    def __init__(
        self,
        listing: PoseListing,
        where: str,
        on_error: str = "fail",
        cache_gb: float = 4.0,
        known: Known | None = None,
    ) -> None:
        self.classes = listing.joints
        self.colors: tuple[Color, ...] = joint_colors(listing.joints)
        self.links = listing.links
        self.groups: Sequence[int] = ()
        self.skipped: list[str] = []
        self.changed: list[str] = []
        self.flaws = 0
        self._names = listing.names
        self._images = Images(listing.paths, where, cache_gb, listing.read, known.sizes if known else None)
        if known:
            self._people, self.ignored = list(known.people), list(known.ignored)
        else:
            self._check_all(listing, where, on_error)
        files = [*listing.sources.files, *listing.paths]
        self.sources = Sources(files, listing.sources.folders, self._images.stamps)

    def __len__(self) -> int:
        return len(self._people)

    @property
    def pairs(self) -> tuple[int, ...]:
        """For each joint, the joint a mirror puts in its place, by their names; see `joints.mirror`."""
        return mirror(self.classes)

    def name(self, index: int) -> str:
        """Return what the image is called in the data set."""
        return self._names[self._people[index].image]

    def image_id(self, index: int) -> int | str:
        """Return what the data set calls the image of a person."""
        return self._people[index].image_id

    def facts(self, index: int) -> Facts:
        """Return what is known of a record without its pixels."""
        person = self._people[index]
        counts = {joint: 1 for joint in np.flatnonzero(person.points[:, 2]).tolist()}
        _, _, width, height = person.box
        return Facts(self._images.paths[person.image], self._images.sizes[person.image], counts, [(height, width)])

    def hash(self, index: int) -> int | None:
        """Return the image's `hashes.difference_hash`; None: it is not known."""
        return self._images.hashes.get(self._people[index].image)

    def load(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """Return a record; the image may be a view of the cache, so do not write to it.

        Returns:
            image_3HW: RGB, uint8, in channels-last memory order: the whole image.
            truth: ``points`` float32 (K, 3) x, y, visibility; ``box`` float32 (4,) x0, y0, width, height; ``area`` in
                square pixels; ``head``, the head's size in pixels, nan where it is unknown or 0; ``image_id``;
                ``id``; ``joints``, their names.
        """
        import torch

        person = self._people[index]
        image_3HW = torch.from_numpy(self._images.load(person.image)).permute(2, 0, 1)
        truth = {
            "points": torch.from_numpy(person.points.copy()),
            "box": torch.tensor(person.box, dtype=torch.float32),
            "area": person.area,
            "head": person.head,
            "image_id": person.image_id,
            "id": person.id,
            "joints": self.classes,
        }
        return image_3HW, truth

    def preload(self) -> None:
        """Decode as many images as stay in memory, so that workers which are forked later share them."""
        self._images.preload()

    def to_index(self, root: Path) -> dict[str, Any] | None:
        """Return what `from_index` needs, ready for JSON, with paths from `root`; None: the images are no files."""
        if not self._images.on_disk:
            return None
        images = [
            {"name": name, "image": below(path, root), "size": size, **write_hash(self._images.hashes.get(position))}
            for position, (name, path, size) in enumerate(
                zip(self._names, self._images.paths, self._images.sizes, strict=True)
            )
        ]
        return {
            "classes": self.classes,
            "links": self.links,
            "skipped": self.skipped,
            "images": images,
            "people": [person.to_json() for person in self._people],
            "ignored": [person.to_json() for person in self.ignored],
        }

    @classmethod
    def from_index(cls, index: Mapping[str, Any], root: Path, where: str, cache_gb: float) -> PoseData:
        """Return the data that `to_index` tells of; no file is read."""
        images = index["images"]
        listing = PoseListing(
            tuple(index["classes"]),
            tuple((a, b) for a, b in index["links"]),
            [root / image["image"] for image in images],
            [image["name"] for image in images],
            (),
        )
        people, ignored = ([Person.from_json(record) for record in index[key]] for key in ("people", "ignored"))
        known = Known([(height, width) for image in images for height, width in [image["size"]]], people, ignored)
        data = cls(listing, where, cache_gb=cache_gb, known=known)
        data.skipped = list(index["skipped"])
        data._images.hashes = read_hashes(images)
        return data

    def _check_all(self, listing: PoseListing, where: str, on_error: str) -> None:
        """Check every person: keep the good ones and those that can be mended, and what is to be said."""
        found = _Findings([(problem, False) for problem in listing.problems])
        checked = [self._check(record, listing, on_error == "fix", found) for record in listing.records]
        good = [person for person in checked if person]
        self._people = [person for person in good if person.points[:, 2].any()]
        found.unlabelled = len(good) - len(self._people)
        regions = [self._check(record, listing, False, _Findings()) for record in listing.ignored]
        self.ignored = [region for region in regions if region]
        found.spoilt = len(regions) - len(self.ignored)
        total, self.flaws = len(checked) + len(listing.problems), len(found.defects)
        if found.defects and on_error == "fail":
            raise FnaError(_complaint(where, [defect for defect, _ in found.defects], total))
        self.skipped = [f"{defect}; {'mended' if mended else 'left out'}" for defect, mended in found.defects]
        self.skipped += [*_notes(found), *listing.notes]
        if not found.inside:
            raise FnaError(_nobody(where, self.skipped, total, bool(found.defects)))

    def _check(self, record: Record, listing: PoseListing, fix: bool, found: _Findings) -> Person | None:
        """Return the person, or None where it is left out; add to what is found."""
        file = listing.names[record.image]
        who = f"{file}, {record.who}".encode(errors="backslashreplace").decode()
        unreadable = self._images.problems.get(record.image)
        if unreadable is not None:
            found.defects.append((Defect("the image cannot be read", who, unreadable), False))
            return None
        size = self._images.sizes[record.image]
        declared = listing.sizes[record.image] if listing.sizes else None
        if declared is not None and declared != size:
            detail = f"{size[1]}x{size[0]} pixels, not {declared[1]}x{declared[0]}"
            found.defects.append((Defect("the image has another size than its annotation says", who, detail), False))
            return None
        record = in_pixels(record, size) if listing.relative else record
        checked = check(record.points, record.box, record.area, listing.joints, size)
        points = checked.points if fix or not checked.defects else None
        found.defects += [(Defect(what, who, detail), points is not None) for what, detail in checked.defects]
        if points is None:
            return None
        found.outside += [f"{file} {joint}" for joint in checked.outside]
        found.at_zero += int(((points[:, :2] == 0).all(1) & (points[:, 2] > 0)).sum())
        found.inside += int((points[:, 2] > 0).sum()) - len(checked.outside)
        head = _head(points, listing.joints) if record.head is None else record.head
        return Person(record.image, points, checked.box, checked.area, head, record.image_id, record.id, record.crowd)


def _head(points_K3: NDArray[np.float32], joints: Sequence[str]) -> float:
    """Return the length of the segment from the neck to the top of the head in pixels, nan where unknown or 0."""
    segment = head_segment(joints)
    if segment is None or not points_K3[list(segment), 2].all():
        return math.nan
    neck, top = points_K3[segment[0], :2], points_K3[segment[1], :2]
    return float(np.linalg.norm(top - neck)) or math.nan


def _complaint(where: str, defects: Sequence[Defect], total: int) -> str:
    """List the defects by kind, each with its number and a few examples."""
    lines = []
    for what in dict.fromkeys(defect.what for defect in defects):
        own = [f"{defect.who}{f': {defect.detail}' * bool(defect.detail)}" for defect in defects if defect.what == what]
        more = f"; and {len(own) - NAMED} more" if len(own) > NAMED else ""
        lines.append(f"  {len(own)} x {what}: {'; '.join(own[:NAMED])}{more}")
    bad = len({defect.who for defect in defects})
    return (
        f"{where}: {bad} of {total} persons are bad:\n" + "\n".join(lines[:SHOWN]) + "\n"
        "mend them, or type --data.on_error fix to mend what can be and leave out the rest, or --data.on_error skip to "
        "leave them out"
    )


def _nobody(where: str, skipped: Sequence[str], total: int, defects: bool) -> str:
    """Say that nothing can be learned from a split, why, and what to do."""
    first = f"; the first reason: {skipped[0]}" if skipped else ""
    more = ", or type --data.on_error fail to see all that is wrong" if defects else ""
    return (
        f"{where} has no usable person of {total}{first}; expected one with a labelled joint inside its image; name "
        f"another split or file with --data.train or --data.val{more}"
    )


def _notes(found: _Findings) -> Iterator[str]:
    if found.at_zero:
        yield (
            f"joints labelled at exactly 0, 0, where some programs write those that are not there: {found.at_zero}; "
            "they are learned as they are: give those that are not there the visibility 0, or leave them empty"
        )
    if found.outside:
        more = f" and {len(found.outside) - NAMED} more" if len(found.outside) > NAMED else ""
        examples = ", ".join(found.outside[:NAMED])
        yield f"labelled joints outside their image, scored but not learned: {len(found.outside)}: {examples}{more}"
    if found.unlabelled:
        yield f"persons without a labelled joint, left out: {found.unlabelled}"
    if found.spoilt:
        yield f"crowds and people without joints whose record is bad, so that finds there count: {found.spoilt}"
