"""Segmentation data: every record is decoded and checked once before anything is learned from it, then cached."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fna.data.images import is_utf8
from fna.data.listing import IGNORE, Color, Listing
from fna.errors import FnaError
from fna.progress import bar

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


class SegmentationData:
    """Images with a class id per pixel.

    Making one decodes all records; as many as `cache_gb` allows stay in memory, where forked workers share them.

    Args:
        listing: the records and their labels.
        where: what error messages call the split.
        on_error: ``"fail"``: bad records raise one error that lists them; ``"skip"`` or ``"fix"``: they are left out
            (a bad mask cannot be mended).
        cache_gb: memory for decoded records, in 1e9 bytes.

    Attributes:
        classes: names by class id.
        colors: RGB by class id.
        links: of joints; there are none.
        groups: of records; there is one.
        skipped: why records were left out, a line each.

    Raises:
        FnaError: bad records (``"fail"``), or not one good record.
    """

    def __init__(self, listing: Listing, where: str, on_error: str = "fail", cache_gb: float = 4.0) -> None:
        self.classes: tuple[str, ...] = listing.classes
        self.colors: tuple[Color, ...] = listing.colors
        self.links: tuple[tuple[int, int], ...] = ()
        self.groups: tuple[int, ...] = ()
        self.skipped: list[str] = []
        self._listing = listing
        self._table = _label_table(listing)
        self._records: list[int] = []  # index -> position in the listing
        self._cache: dict[int, Sample] = {}  # by position
        self._digest = hashlib.sha256(repr((listing.classes, sorted(listing.labels.items()))).encode())
        self._check_all(where, cache_gb * 1e9)
        if self.skipped and on_error == "fail":
            raise FnaError(_complaint(where, self.skipped, len(listing.names)))
        if not self._records:
            first = f"; the first: {self.skipped[0]}" if self.skipped else ""
            raise FnaError(f"{where} has no usable image of {len(listing.names)}{first}")

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
        position = self._records[index]
        sample = self._cache.get(position) or self._decode(position)
        return torch.from_numpy(sample.image).permute(2, 0, 1), torch.from_numpy(sample.mask)

    def fingerprint(self) -> str:
        """Return a SHA-256 over classes, names, sizes and the number of pixels per class: other data, other text."""
        return self._digest.hexdigest()

    def _check_all(self, where: str, cache_bytes: float) -> None:
        """Decode every record once, in order: fill the cache, and collect what is wrong."""
        names = self._listing.names
        seen: set[str] = set()
        with bar(len(names), f"reading {where}") as progress:
            for position, outcome in enumerate(self._decoded()):
                progress.advance()
                name = names[position]
                if not is_utf8(name):
                    self.skipped.append(f"{name!r}: the file's name is not UTF-8; rename it")
                elif name in seen:
                    self.skipped.append(f"{name}: listed twice")
                elif isinstance(outcome, FnaError):
                    self.skipped.append(f"{name}: {outcome}")
                else:
                    counts = np.bincount(outcome.mask.reshape(-1), minlength=256)
                    self._digest.update(repr((name, outcome.mask.shape, counts.tolist())).encode())
                    self._records.append(position)
                    cache_bytes -= outcome.nbytes
                    if cache_bytes >= 0:
                        self._cache[position] = outcome
                seen.add(name)

    def _decoded(self) -> Iterator[Sample | FnaError]:
        """Yield each record decoded, or what is wrong with it; decoders release the interpreter, so threads help."""

        def attempt(position: int) -> Sample | FnaError:
            try:
                return self._decode(position)
            except FnaError as error:
                return error

        total, threads = len(self._listing.names), min(8, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, total, 4 * threads):  # a block at a time, to bound memory
                yield from pool.map(attempt, range(start, min(start + 4 * threads, total)))

    def _decode(self, position: int) -> Sample:
        """Read a record, check that mask and image belong together, and turn labels into class ids."""
        image_HW3, labels_HW = self._listing.read(position)
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
