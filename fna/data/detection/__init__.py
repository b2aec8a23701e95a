"""Detection data: `open_data` reads and checks a split; `transforms.DetectionView` and `views` make batches of it.

Boxes are x0, y0, x1, y1 in pixels; the image's corners are (0, 0) and (width, height). A new format is one file with a
`FORMATS` table, named in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fna.config import DataConfig
from fna.data.cutting import Lists, read_split
from fna.data.detection import coco, synthetic, voc, yolo
from fna.data.detection.boxes import DetectionData
from fna.data.detection.listing import DetectionListing, DetectionReader
from fna.data.listing import data_root, refuse_outside
from fna.data.recognising import AUTO, auto_layout, pick_reader, recognise

FAMILIES = (coco, synthetic, voc, yolo)
FORMATS: dict[str, DetectionReader] = {name: reader for family in FAMILIES for name, reader in family.FORMATS.items()}


def _read_auto(root: Path, split: str, config: DataConfig) -> DetectionListing:
    """List a split in whatever format it is."""
    known = recognise(config, root, FORMATS)
    return FORMATS[known.format].read(root, split, known)


FORMATS[AUTO] = DetectionReader(_read_auto, auto_layout(FORMATS))


__all__ = ["FORMATS", "DetectionData", "DetectionListing", "DetectionReader", "open_data"]


def open_data(
    config: DataConfig, split: str, index: Mapping[str, Any] | None = None, lists: Lists | None = None
) -> DetectionData:
    """Read and check a split, or open it as an index has it.

    Args:
        config: the data set, and what to do with bad records.
        split: its name in the data set (``config.train``, ``config.val``); each format's layout says what it may be.
        index: what the split's `to_index` said when it was checked.
        lists: the cut of a data set that ``data.split`` cuts; None: it is made anew.

    Raises:
        FnaError: the data set or the split is missing, or records are bad and ``on_error`` is ``"fail"``.
    """
    reader = pick_reader(FORMATS, config.format, "detection")
    root, where = data_root(config, reader), f"{config.format} '{split}'"
    if index is not None:
        return DetectionData.from_index(index, root, where, config.cache_gb)
    config = recognise(config, root, FORMATS, aloud=split == config.train)
    reader, where = FORMATS[config.format], f"{config.format} '{split}'"
    listing = read_split(reader, root, split, config, lists)
    if reader.on_disk:
        refuse_outside([record.path for record in listing.records], root, config, f"images of '{split}'")
    return DetectionData(listing, where, config.on_error, config.cache_gb)
