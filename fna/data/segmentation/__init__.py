"""Segmentation data: `open_data` reads and checks a split; `transforms` turns it into batches.

A new format is one file with a `FORMATS` table, named in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fna.config import SegmentationDataConfig
from fna.data.cutting import Lists, read_split
from fna.data.listing import Listing, Pairs, Reader, data_root, refuse_outside
from fna.data.recognising import AUTO, auto_layout, pick_reader, recognise
from fna.data.segmentation import camvid, cityscapes, folder, pairs, synthetic, voc, yolo
from fna.data.segmentation.pixels import SegmentationData

FAMILIES = (camvid, cityscapes, folder, pairs, synthetic, voc, yolo)
FORMATS: dict[str, Reader] = {name: reader for family in FAMILIES for name, reader in family.FORMATS.items()}


def _read_auto(root: Path, split: str, config: SegmentationDataConfig) -> Listing:
    """List a split in whatever format it is."""
    known: SegmentationDataConfig = recognise(config, root, FORMATS)
    return FORMATS[known.format].read(root, split, known)


FORMATS[AUTO] = Reader(_read_auto, auto_layout(FORMATS))


def open_data(
    config: SegmentationDataConfig, split: str, index: Mapping[str, Any] | None = None, lists: Lists | None = None
) -> SegmentationData:
    """Read and check a split, or open it as an index has it.

    Args:
        config: the data set, and what to do with bad records.
        split: its name in the data set (``config.train``, ``config.val``).
        index: what the split's `to_index` said when it was checked.
        lists: the cut of a data set that ``data.split`` cuts; None: it is made anew.

    Raises:
        FnaError: the data set or the split is missing, or records are bad and ``on_error`` is ``"fail"``.
    """
    reader = pick_reader(FORMATS, config.format, "segmentation")
    root, where = data_root(config, reader), f"{config.format} '{split}'"
    if index is not None:
        return SegmentationData.from_index(index, root, where, config.cache_gb)
    config = recognise(config, root, FORMATS, aloud=split == config.train)
    reader, where = FORMATS[config.format], f"{config.format} '{split}'"
    listing = read_split(reader, root, split, config, lists)
    if isinstance(listing.read, Pairs):
        refuse_outside([*listing.read.images, *listing.read.masks], root, config, f"files of '{split}'")
    return SegmentationData(listing, where, config.on_error, config.cache_gb)
