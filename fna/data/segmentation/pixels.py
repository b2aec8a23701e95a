"""Segmentation data: every record is decoded and checked once before anything is learned from it, then cached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fna.data.cache import Cache
from fna.data.decoding import mask_palette
from fna.data.images import is_utf8
from fna.data.listing import IGNORE, Color, Listing, Pairs
from fna.data.stamps import Sources, Stamp, below
from fna.errors import FnaError

if TYPE_CHECKING:
    from torch import Tensor

MIN_SIDE = 32  # the largest output stride: a smaller image would have no pixel left
SHOWN = 10  # problems listed in an error message
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

    @classmethod
    def of(cls, sample: Sample) -> Extent:
        """Measure a decoded record."""
        counts = np.bincount(sample.mask.reshape(-1), minlength=256)
        present = np.flatnonzero(counts)
        pixels = dict(zip(present.tolist(), counts[present].tolist(), strict=True))
        return cls((sample.mask.shape[0], sample.mask.shape[1]), pixels)


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
        self.classes: tuple[str, ...] = listing.classes
        self.colors: tuple[Color, ...] = listing.colors
        self.links: tuple[tuple[int, int], ...] = ()
        self.groups: tuple[int, ...] = ()
        self.skipped: list[str] = []
        self.changed: list[str] = []
        self._listing = listing
        self._table = _label_table(listing)
        self._stamps: dict[Path, Stamp] | None = {} if known is None else None
        self._cache: Cache[Sample] = Cache(self._decode, where, cache_gb)  # by position
        self._records = list(range(len(known or ())))  # index -> position in the listing
        self._extents = list(known or ())  # by index
        if known is None:
            self._check_all()
            if self.skipped and on_error == "fail":
                raise FnaError(_complaint(where, self.skipped, len(listing.names)))
        files = [*listing.read.images, *listing.read.masks] if isinstance(listing.read, Pairs) else []
        self.sources = Sources([*listing.sources.files, *files], listing.sources.folders, self._stamps or {})
        self._stamps = None  # from now on, reading is not checking
        if not self._records:
            first = f"; the first: {self.skipped[0]}" if self.skipped else ""
            raise FnaError(f"{where} has no usable image of {len(listing.names)}{first}")
        if known is None:
            self._refuse_palettes(where)
            self._refuse_absent(where)

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        """Return the image's file name."""
        return self._listing.names[self._records[index]]

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a record; the tensors may be views of the cache, so do not write to them.

        Returns:
            image_3HW: RGB, uint8, in channels-last memory order.
            mask_HW: class ids 0..C-1 or 255 = ignore, uint8.
        """
        import torch

        sample = self._cache.load(self._records[index])
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
            }
            for position, extent in zip(self._records, self._extents, strict=True)
        ]
        labels = sorted(self._listing.labels.items())
        named = {"classes": self.classes, "colors": self.colors, "labels": labels}
        return {**named, "skipped": self.skipped, "records": records}

    @classmethod
    def from_index(cls, index: Mapping[str, Any], root: Path, where: str, cache_gb: float) -> SegmentationData:
        """Return the data that `to_index` tells of; no file is read."""
        records = index["records"]
        images, masks = ([root / record[key] for record in records] for key in ("image", "mask"))
        listing = Listing(
            tuple(record["name"] for record in records),
            tuple(index["classes"]),
            tuple((r, g, b) for r, g, b in index["colors"]),
            dict(index["labels"]),
            Pairs(images, masks),
        )
        known = [
            Extent((height, width), {int(label): n for label, n in record["pixels"].items()})
            for record in records
            for height, width in [record["size"]]
        ]
        data = cls(listing, where, cache_gb=cache_gb, known=known)
        data.skipped = list(index["skipped"])
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
            else:
                self._records.append(position)
                self._extents.append(Extent.of(outcome))
            seen.add(name)

    def _refuse_palettes(self, where: str) -> None:
        """Refuse masks whose palettes give one index different colours: what it means is not the same in all."""
        read, seen = self._listing.read, dict[int, tuple[tuple[int, int, int], str]]()
        if not isinstance(read, Pairs):
            return
        value_of = {class_id: label for label, class_id in self._listing.labels.items() if class_id != IGNORE}
        for position, extent in zip(self._records, self._extents, strict=True):
            colors, mask = mask_palette(read.masks[position]), read.masks[position].name
            for class_id in extent.pixels if colors else ():
                index = value_of.get(class_id)
                if colors is None or index is None or index >= len(colors):
                    continue
                color, other = seen.setdefault(index, (colors[index], mask))
                if color != colors[index]:
                    raise FnaError(
                        f"{where}: the palettes of the masks contradict each other: index {index} is {color} in "
                        f"{other}, {colors[index]} in {mask}; save all masks with one palette, or, if the "
                        "indices are right, as grey images"
                    )

    def class_counts(self) -> list[int]:
        """Return the number of pixels of each class."""
        return [
            sum(extent.pixels.get(class_id, 0) for extent in self._extents) for class_id in range(len(self.classes))
        ]

    def _refuse_absent(self, where: str) -> None:
        """Refuse classes without a pixel where every class must have one."""
        total: Counter[int] = Counter()
        for extent in self._extents:
            total.update(extent.pixels)
        absent = [name for class_id, name in enumerate(self.classes) if not total[class_id]]
        if not absent or not self._listing.complete:
            return
        value_of = {class_id: label for label, class_id in self._listing.labels.items()}
        found = [f"{value_of[class_id]} ({n / total.total():.0%})" for class_id, n in sorted(total.items())]
        ignored = f", of which {value_of[IGNORE]} is ignored" if total[IGNORE] else ""
        raise FnaError(
            f"{where}: no pixel of any of {len(self._extents)} masks is of the class '{absent[0]}'"
            f"{f' (nor of {len(absent) - 1} more)' if len(absent) > 1 else ''}; the masks have the labels "
            f"{', '.join(found[:SHOWN])}{ignored}; give the label of each class, such as --data.labels '[0, 255]', or "
            "leave the class out"
        )

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
        if labels_HW.dtype != np.uint8 and (labels_HW.min() < 0 or labels_HW.max() > 255):
            raise FnaError(self._unknown(labels_HW))
        mask_HW = self._table[labels_HW]
        if (mask_HW == UNKNOWN).any():
            raise FnaError(self._unknown(labels_HW))
        return Sample(image_HW3, mask_HW)

    def _unknown(self, labels_HW: NDArray[np.int32] | NDArray[np.uint8]) -> str:
        values, counts = np.unique(labels_HW, return_counts=True)
        known = self._listing.labels
        bad = [f"{v} ({n} pixels)" for v, n in zip(values.tolist(), counts.tolist(), strict=True) if v not in known]
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        return f"the mask has unknown labels: {', '.join(bad[:SHOWN])}{more}; known: {_ranges(known)}"


def _label_table(listing: Listing) -> NDArray[np.uint8]:
    table = np.full(256, UNKNOWN, np.uint8)
    for value, class_id in listing.labels.items():
        table[value] = class_id
    assert len(listing.classes) < UNKNOWN < IGNORE
    return table


def _complaint(where: str, problems: list[str], total: int) -> str:
    lines = "\n".join(f"  {problem}" for problem in problems[:SHOWN])
    more = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return (
        f"{where}: {len(problems)} of {total} records are bad:\n{lines}{more}\n"
        "mend them, or type --data.on_error skip to leave them out"
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


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
