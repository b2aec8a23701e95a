"""Detection data: `open_data` reads and checks a split, `DetectionView` and `collate` turn it into batches.

Boxes are x0, y0, x1, y1 in pixels; the image's corners are (0, 0) and (width, height). A new format is one file with a
`FORMATS` table, named in `FAMILIES`.
"""

from __future__ import annotations

from fna.config import DataConfig
from fna.data.detection import coco, synthetic, voc, yolo
from fna.data.detection.boxes import DetectionData
from fna.data.detection.listing import DetectionListing, DetectionReader
from fna.data.detection.transforms import DetectionView
from fna.data.detection.views import Frame, collate, to_image, to_view, view
from fna.data.listing import data_root
from fna.errors import pick

FAMILIES = (coco, synthetic, voc, yolo)
FORMATS: dict[str, DetectionReader] = {name: reader for family in FAMILIES for name, reader in family.FORMATS.items()}

__all__ = [
    "FORMATS",
    "DetectionData",
    "DetectionListing",
    "DetectionReader",
    "DetectionView",
    "Frame",
    "collate",
    "open_data",
    "to_image",
    "to_view",
    "view",
]


def open_data(config: DataConfig, split: str) -> DetectionData:
    """Read and check a split.

    Args:
        config: the data set, and what to do with bad records.
        split: its name in the data set (``config.train``, ``config.val``); each format's layout says what it may be.

    Raises:
        FnaError: the data set or the split is missing, or records are bad and ``on_error`` is ``"fail"``.
    """
    reader = pick(FORMATS, config.format, "data format of detection")
    listing = reader.read(data_root(config, reader), split, config)
    return DetectionData(listing, f"{config.format} '{split}'", config.on_error, config.cache_gb)
