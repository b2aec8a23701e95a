"""Segmentation data: every record is decoded and checked once before anything is learned from it, then cached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fna.data.cache import Cache
from fna.data.hashes import difference_hash, read_hashes, write_hash
from fna.data.images import is_utf8
from fna.data.listing import IGNORE, Color, Facts, Legend, Listing, Pairs
from fna.data.segmentation.checks import (
    SHOWN,
    UnknownLabelsError,
    absent_labels,
    refuse_absent,
    refuse_palettes,
    unknown_labels,
)
from fna.data.segmentation.polygons import Polygons
from fna.data.stamps import Sources, Stamp, below
from fna.errors import FnaError

if TYPE_CHECKING:
    from torch import Tensor

MIN_SIDE = 32  # the largest output stride: a smaller image would have no pixel left
UNKNOWN = 254  # in the label table: not a label of this data set


@dataclass(frozen=True)
class Sample:
    """A decoded record: RGB pixels (height, width, 3) and class ids (height, width) with `IGNORE`, both uint8."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Memory of the pixels in bytes."""
        return self.image.nbytes + self.mask.nbytes


@dataclass(frozen=True)
class Extent:
    """What is known of a record without its pixels: height and width, and the number of pixels by class id."""

    size_hw: tuple[int, int]
    pixels: Mapping[int, int]


class SegmentationData:
    """Images with a class id per pixel.

    Making one decodes all records, unless an index has them; as many as `cache_gb` allows stay in memory, where forked
    workers share them.

    Args:
        listing: the records and their labels.
        where: what error messages call the split.
        on_error: ``"fail"``: bad records raise one error that lists them; ``"skip"`` or ``"fix"``: they are left out
            (a bad mask cannot be mended).
        cache_gb: memory for decoded records, in 1e9 bytes.
        known: what an index says of every record; None: they are decoded and checked now.

    Attributes:
        classes: names by class id.
        colors: RGB by class id.
        links: of joints; there are none.
        groups: of records; there is one.
        skipped: why records were left out, a line each.
        flaws: how many there were when it was checked now.
        changed: what changed since the index was made and was accepted, a line each.
        sources: the files that were read.

    Raises:
        FnaError: bad records (``"fail"``), or not one good record.
    """

    def __init__(
        self,
        listing: Listing,
        where: str,
        on_error: str = "fail",
        cache_gb: float = 4.0,
        known: Sequence[Extent] | None = None,
    ) -> None:
        self.classes: tuple[str, ...] = listing.legend.classes
        self.colors: tuple[Color, ...] = listing.legend.colors
        self.links: tuple[tuple[int, int], ...] = ()
        self.groups: tuple[int, ...] = ()
        self.skipped: list[str] = []
        self.changed: list[str] = []
        self._listing = listing
        self._table, self._class_ids = _tables(listing.legend)
        self._labels: dict[int, Mapping[int, int]] = {}  # position -> pixels by label, of those checked now
        self._hashes: dict[int, int] = {}  # by position
        self._unknown: dict[str, UnknownLabelsError] = {}
        self._stamps: dict[Path, Stamp] | None = {} if known is None else None
        self._cache: Cache[Sample] = Cache(self._decode, where, cache_gb)  # by position
        self._records = list(range(len(known or ())))  # index -> position in the listing
        self._extents = list(known or ())  # by index
        self.flaws = 0
        if known is None:
            self._check_all()
            self.flaws = len(self.skipped)
            if self.skipped and on_error == "fail":
                more = unknown_labels(self._unknown, listing.legend)
                raise FnaError(_complaint(where, self.skipped, len(listing.names), more))
        files = [*listing.read.images, *listing.read.masks] if isinstance(listing.read, Pairs) else []
        self.sources = Sources([*listing.sources.files, *files], listing.sources.folders, self._stamps or {})
        self._stamps = None  # from now on, reading is not checking
        if not self._records:
            first = f"; the first: {self.skipped[0]}" if self.skipped else ""
            raise FnaError(f"{where} has no usable image of {len(listing.names)}{first}")
        if known is None:
            self._check_labels(where)

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        """Return the image's file name."""
        return self._listing.names[self._records[index]]

    def facts(self, index: int) -> Facts:
        """Return what is known of a record without its pixels."""
        extent, read = self._extents[index], self._listing.read
        path = read.images[self._records[index]] if isinstance(read, Pairs) else Path()
        return Facts(path, extent.size_hw, extent.pixels)

    def hash(self, index: int) -> int | None:
        """Return the image's `hashes.difference_hash`; None: it is not known."""
        return self._hashes.get(self._records[index])

    def sample(self, index: int) -> Sample:
        """Return a record as arrays, which may be the cache's own, so do not write to them."""
        return self._cache.load(self._records[index])

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a record; the tensors may be views of the cache, so do not write to them.

        Returns:
            image_3HW: RGB, uint8, in channels-last memory order.
            mask_HW: class ids 0..C-1 or 255 = ignore, uint8.
        """
        import torch

        sample = self.sample(index)
        return torch.from_numpy(sample.image).permute(2, 0, 1), torch.from_numpy(sample.mask)

    def preload(self) -> None:
        """Decode as many records as stay in memory, so that workers which are forked later share them."""
        sizes = (extent.size_hw for extent in self._extents)
        bytes_each = (4 * height * width for height, width in sizes)  # RGB and the mask
        self._cache.preload(zip(self._records, bytes_each, strict=True))

    def to_index(self, root: Path) -> dict[str, Any] | None:
        """Return what `from_index` needs, ready for JSON, with paths from `root`; None: the images are no files."""
        if not isinstance(self._listing.read, Pairs):
            return None
        images, masks = self._listing.read.images, self._listing.read.masks
        records = [
            {
                "name": self._listing.names[position],
                "image": below(images[position], root),
                "mask": below(masks[position], root),
                "size": extent.size_hw,
                "pixels": extent.pixels,
                **write_hash(self._hashes.get(position)),
            }
            for position, extent in zip(self._records, self._extents, strict=True)
        ]
        legend = self._listing.legend
        named: dict[str, Any] = {
            "classes": self.classes,
            "colors": self.colors,
            "labels": sorted(legend.labels.items()),
        }
        named |= {"colored": True} if legend.colored else {}
        named |= {"polygons": True} if isinstance(self._listing.read, Polygons) else {}
        return {**named, "skipped": self.skipped, "records": records}

    @classmethod
    def from_index(cls, index: Mapping[str, Any], root: Path, where: str, cache_gb: float) -> SegmentationData:
        """Return the data that `to_index` tells of; no file is read."""
        records = index["records"]
        images, masks = ([root / record[key] for record in records] for key in ("image", "mask"))
        colors = tuple((r, g, b) for r, g, b in index["colors"])
        legend = Legend(tuple(index["classes"]), colors, dict(index["labels"]), index.get("colored", False))
        names = tuple(record["name"] for record in records)
        kind = Polygons if index.get("polygons") else Pairs
        listing = Listing(names, legend, kind(images, masks, legend.colored))
        known = [
            Extent((height, width), {int(label): n for label, n in record["pixels"].items()})
            for record in records
            for height, width in [record["size"]]
        ]
        data = cls(listing, where, cache_gb=cache_gb, known=known)
        data.skipped = list(index["skipped"])
        data._hashes = read_hashes(records)
        return data

    def _check_all(self) -> None:
        """Decode every record once, in order: fill the cache, and collect what is wrong."""
        names = self._listing.names
        seen: set[str] = set()
        for position, outcome in enumerate(self._cache.decode_all(len(names))):
            name = names[position]
            if not is_utf8(name):
                self.skipped.append(f"{name!r}: the file's name is not UTF-8; rename it")
            elif name in seen:
                self.skipped.append(f"{name}: listed twice")
            elif isinstance(outcome, FnaError):
                self.skipped.append(f"{name}: {outcome}")
                self._unknown |= {name: outcome} if isinstance(outcome, UnknownLabelsError) else {}
            else:
                height, width = outcome.mask.shape
                self._records.append(position)
                self._extents.append(
                    Extent((height, width), _class_pixels(self._labels[position], self._listing.legend))
                )
            seen.add(name)

    def class_counts(self) -> list[int]:
        """Return the number of pixels of each class."""
        return [
            sum(extent.pixels.get(class_id, 0) for extent in self._extents) for class_id in range(len(self.classes))
        ]

    def _check_labels(self, where: str) -> None:
        """Check the labels of all masks together."""
        listing, present = self._listing, [self._labels[position] for position in self._records]
        if isinstance(listing.read, Pairs):
            refuse_palettes(
                where, [listing.read.masks[position] for position in self._records], present, listing.legend
            )
        total: Counter[int] = Counter()
        for pixels in present:
            total.update(pixels)
        if listing.legend.own and listing.learned:  # in others a rare class may be missing
            refuse_absent(where, total, len(present), listing.legend)
            self.skipped += absent_labels(total, len(present), listing.legend)

    def _decode(self, position: int) -> Sample:
        """Read a record, check that mask and image belong together, and turn labels into class ids."""
        read = self._listing.read
        image_HW3, labels_HW = read(position, self._stamps) if isinstance(read, Pairs) else read(position)
        size = image_HW3.shape[:2]
        if min(size) < MIN_SIDE:
            raise FnaError(f"the image is {_size(size)} pixels; expected at least {MIN_SIDE}x{MIN_SIDE}")
        if labels_HW.shape != size:
            raise FnaError(
                f"the mask is {_size(labels_HW.shape)} pixels, its image {_size(size)}; expected the same size"
            )
        inside_HW = labels_HW if labels_HW.dtype == np.uint8 else np.clip(labels_HW, 0, len(self._table) - 1)
        places_HW = self._table[inside_HW]
        if (places_HW == UNKNOWN).any():
            raise UnknownLabelsError(_count(labels_HW[places_HW == UNKNOWN]), self._listing.legend)
        if self._stamps is not None:
            counts = np.bincount(places_HW.reshape(-1), minlength=len(self._listing.legend.labels)).tolist()
            self._hashes[position] = difference_hash(image_HW3)
            self._labels[position] = {k: n for k, n in zip(self._listing.legend.labels, counts, strict=True) if n}
        return Sample(image_HW3, self._class_ids[places_HW])


def _tables(legend: Legend) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the place of each label in the legend, else `UNKNOWN`, and the class id of each place."""
    assert len(legend.classes) <= len(legend.labels) <= UNKNOWN < IGNORE
    table = np.full((2**24 if legend.colored else 2**16) + 1, UNKNOWN, np.uint8)  # the last: for all beyond
    table[list(legend.labels)] = range(len(legend.labels))
    return table, np.array([*legend.labels.values()], np.uint8)


def _count(labels_N: NDArray[np.int32] | NDArray[np.uint8]) -> dict[int, int]:
    values, counts = np.unique(labels_N, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _class_pixels(labels: Mapping[int, int], legend: Legend) -> dict[int, int]:
    """Return pixels by class id."""
    pixels: Counter[int] = Counter()
    for label, n in labels.items():
        pixels[legend.labels[label]] += n
    return dict(sorted(pixels.items()))


def _complaint(where: str, problems: list[str], total: int, more: str) -> str:
    lines = "\n".join(f"  {problem}" for problem in problems[:SHOWN])
    rest = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return (
        f"{where}: {len(problems)} of {total} records are bad:\n{lines}{rest}\n{more}"
        "mend them, or type --data.on_error skip to leave them out"
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
