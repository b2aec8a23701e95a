"""Segmentation data: `open_data` reads and checks a split, `TrainView` and `collate` turn it into batches.

A new format is one file with a `FORMATS` table, named in `FAMILIES`.
"""

from __future__ import annotations

from fna.config import SegmentationDataConfig
from fna.data.listing import Reader, data_root
from fna.data.segmentation import camvid, cityscapes, folder, synthetic, voc
from fna.data.segmentation.pixels import SegmentationData
from fna.errors import pick

FAMILIES = (camvid, cityscapes, folder, synthetic, voc)
FORMATS: dict[str, Reader] = {name: reader for family in FAMILIES for name, reader in family.FORMATS.items()}


def open_data(config: SegmentationDataConfig, split: str) -> SegmentationData:
    """Read and check a split.

    Args:
        config: the data set, and what to do with bad records.
        split: its name in the data set (``config.train``, ``config.val``).

    Raises:
        FnaError: the data set or the split is missing, or records are bad and ``on_error`` is ``"fail"``.
    """
    reader = pick(FORMATS, config.format, "data format of segmentation")
    listing = reader.read(data_root(config, reader), split, config)
    return SegmentationData(listing, f"{config.format} '{split}'", config.on_error, config.cache_gb)
