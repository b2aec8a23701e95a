"""Detection data: images with checked boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fna.data.detection.checks import Found, Truth, check_record, place, summarise
from fna.data.detection.listing import DetectionListing, Record, mark_repeated
from fna.data.hashes import read_hashes, write_hash
from fna.data.images import Images
from fna.data.listing import Color, Facts, palette
from fna.data.stamps import Sources, below
from fna.errors import FnaError, printable

if TYPE_CHECKING:
    from torch import Tensor

TRUTH = {"boxes": np.float32, "labels": np.int64, "crowd": np.bool_, "difficult": np.bool_, "area": np.float32}


class DetectionData:
    """Images with boxes around things; an image without boxes is a record too: nothing is there to be found.

    Making one decodes all images and checks all annotations, unless an index has them; as many images as `cache_gb`
    allows stay in memory.

    Args:
        listing: the records.
        where: what messages call the split.
        on_error: ``"fail"``: flaws raise one error that lists them; ``"fix"``: boxes are cut to their image, bad boxes
            and images that cannot be mended left out; ``"skip"``: images with any flaw are left out.
        cache_gb: memory for decoded images, in 1e9 bytes.
        known: height and width, and the truth, that an index has of every record; None: all are checked now.

    Attributes:
        classes: names by class id.
        colors: RGB by class id.
        category_ids: the data set's own number of each class, as COCO's results have it.
        links: (), boxes have no skeleton.
        groups: a number per image: 1 = upright (higher than wide), 0 = any other.
        skipped: how many flaws of each kind there were, what the reader remarks, then what was left out or mended; a
            line each.
        flaws: how many there were when it was checked now.
        changed: what changed since the index was made and was accepted, a line each.
        sources: the files that were read.

    Raises:
        FnaError: flaws (``"fail"``), or not one good image, or not one box.
    """

    def __init__(
        self,
        listing: DetectionListing,
        where: str,
        on_error: str = "fail",
        cache_gb: float = 4.0,
        known: Sequence[tuple[tuple[int, int], Truth]] | None = None,
    ) -> None:
        self.classes: tuple[str, ...] = listing.classes
        self.colors: tuple[Color, ...] = palette(len(listing.classes) + 1)[1:]
        self.category_ids: tuple[int, ...] = listing.category_ids
        self.links: tuple[tuple[int, int], ...] = ()
        self.skipped: list[str] = []
        self.changed: list[str] = []
        self._listing = listing
        self._records = listing.records if known is not None else mark_repeated(listing.records)
        paths, sizes = [record.path for record in self._records], None if known is None else [hw for hw, _ in known]
        self._images = Images(paths, where, cache_gb, listing.read, sizes)
        self._truths: list[Truth] = [truth for _, truth in known or ()]
        self._positions: list[int] = list(range(len(self._truths)))  # index -> position in the listing
        found = self._check_all(on_error) if known is None else []
        if found and on_error == "fail":
            raise FnaError(summarise(where, found, len(self._records)))
        if not self._truths:
            first = f"; the first: {self.skipped[0]}" if self.skipped else ""
            raise FnaError(f"{where} has no usable image of {len(self._records)}{first}")
        if not any(len(truth.labels) for truth in self._truths):
            raise FnaError(
                f"{where}: none of the {len(self._truths)} images has a box of {', '.join(self.classes[:20])}; "
                "is it the right annotation file?"
            )
        self.flaws = len(found)
        kinds = Counter(one.flaw.kind for one in found)
        self.skipped = [*(f"{kind}: {n}" for kind, n in kinds.most_common()), *listing.notes, *self.skipped]
        sizes = [self._images.sizes[position] for position in self._positions]
        self.groups: Sequence[int] = tuple(int(height > width) for height, width in sizes)
        self.sources = Sources([*listing.sources.files, *paths], listing.sources.folders, self._images.stamps)

    def __len__(self) -> int:
        return len(self._positions)

    def name(self, index: int) -> str:
        """Return the image's file name."""
        return self._records[self._positions[index]].name

    def image_id(self, index: int) -> int:
        """Return the number that COCO's results know the image by."""
        return self._records[self._positions[index]].image_id

    def facts(self, index: int) -> Facts:
        """Return what is known of a record without its pixels."""
        position, truth = self._positions[index], self._truths[index]
        sides_N2 = truth.boxes[:, 2:] - truth.boxes[:, :2]
        things = [(height, width) for width, height in sides_N2.tolist()]
        return Facts(self._records[position].path, self._images.sizes[position], Counter(truth.labels.tolist()), things)

    def hash(self, index: int) -> int | None:
        """Return the image's `hashes.difference_hash`; None: it is not known."""
        return self._images.hashes.get(self._positions[index])

    def load(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """Return a record; the image may be a view of the cache, so do not write to it.

        Returns:
            image_3HW: RGB, uint8, in channels-last memory order.
            truth: see `truth`.
        """
        import torch

        pixels_HW3 = self._images.load(self._positions[index])
        return torch.from_numpy(pixels_HW3).permute(2, 0, 1), self.truth(index)

    def truth(self, index: int) -> dict[str, Any]:
        """Return what is true of an image.

        Returns:
            ``boxes`` float32 (N, 4), x0, y0, x1, y1 in pixels, ``labels`` int64 (N,), ``crowd`` and ``difficult`` bool
            (N,), ``area`` float32 (N,) in square pixels, and ``image_id``.
        """
        import torch

        truth = self._truths[index]
        arrays = {key: torch.from_numpy(getattr(truth, key).copy()) for key in TRUTH}
        return {**arrays, "image_id": self.image_id(index)}

    def class_counts(self) -> list[int]:
        """Return the number of boxes of each class."""
        labels = np.concatenate([truth.labels for truth in self._truths])
        return np.bincount(labels, minlength=len(self.classes)).tolist()  # type: ignore[no-any-return]

    def preload(self) -> None:
        """Decode as many images as stay in memory, so that workers which are forked later share them."""
        self._images.preload()

    def to_index(self, root: Path) -> dict[str, Any] | None:
        """Return what `from_index` needs, ready for JSON, with paths from `root`; None: the images are no files."""
        if not self._images.on_disk:
            return None
        records = []
        for position, truth in zip(self._positions, self._truths, strict=True):
            record = self._records[position]
            image = {"name": record.name, "image": below(record.path, root), "image_id": record.image_id}
            image |= write_hash(self._images.hashes.get(position))
            boxes = {key: getattr(truth, key).tolist() for key in TRUTH}
            records.append({**image, "size": self._images.sizes[position], **boxes})
        named = {"classes": self.classes, "category_ids": self.category_ids}
        return {**named, "skipped": self.skipped, "records": records}

    @classmethod
    def from_index(cls, index: Mapping[str, Any], root: Path, where: str, cache_gb: float) -> DetectionData:
        """Return the data that `to_index` tells of; no file is read."""
        records, known = [], []
        for record in index["records"]:
            records.append(Record(record["name"], root / record["image"], record["image_id"]))
            height, width = record["size"]
            arrays: dict[str, Any] = {key: np.array(record[key], kind) for key, kind in TRUTH.items()}
            known.append(((height, width), Truth(**{**arrays, "boxes": arrays["boxes"].reshape(-1, 4)})))
        listing = DetectionListing(records, tuple(index["classes"]), tuple(index["category_ids"]))
        data = cls(listing, where, cache_gb=cache_gb, known=known)
        data.skipped = list(index["skipped"])
        data._images.hashes = read_hashes(index["records"])
        return data

    def _check_all(self, on_error: str) -> list[Found]:
        """Keep the good records and those that can be mended; return all flaws."""
        everything: list[Found] = []
        for flaw in self._listing.flaws:
            found = Found("", flaw, "it is left out")
            everything.append(found)
            self.skipped.append(_line(found))
        for position, record in enumerate(self._records):
            truth, flaws = check_record(record, self._images.sizes[position], self._images.problems.get(position))
            everything += flaws
            if flaws and on_error == "skip":
                more = f" (and {len(flaws) - 1} more)" if len(flaws) > 1 else ""
                why = f"{flaws[0].flaw.kind}: {flaws[0].flaw.place} {flaws[0].flaw.detail}"
                self.skipped.append(f"{printable(record.name)}: the image is left out; {why}{more}")
                continue
            self.skipped += map(_line, flaws)
            if truth is not None:
                self._truths.append(truth)
                self._positions.append(position)
        return everything


def _line(found: Found) -> str:
    return f"{place(found)} ({found.flaw.kind}): {found.mended}"
