"""Pose data: a record is a person in an image, `open_data` reads and checks a split, `PoseView` cuts training crops.

In images, a coordinate of 0 is the centre of the first pixel, as the data sets have it; MPII's, which count from 1, are
moved. Boxes are x0, y0, width, height, and begin and end at the rims of pixels: the whole image is (0, 0, w, h). In
crops, coordinates are continuous: the first pixel covers 0 to 1, so a mirror is x -> width - x. `transforms.Frame`
goes from one to the other.

A joint's visibility is 0 = unlabelled, 1 = labelled but hidden, 2 = seen. Unlabelled joints are at (0, 0) and enter
nothing. A labelled joint outside its image is counted and not learned, nothing there could be; it is scored, as the
scripts of MPII and COCO do. Where a person has no box, the one around the joints inside the image is taken.
"""

from __future__ import annotations

from fna.config import DataConfig
from fna.data.listing import data_root
from fna.data.pose import coco, deeplabcut, mpii, synthetic
from fna.data.pose.listing import PoseReader
from fna.data.pose.people import PoseData
from fna.data.pose.transforms import Frame, PoseView, collate, view
from fna.errors import pick

FAMILIES = (coco, deeplabcut, mpii, synthetic)
FORMATS: dict[str, PoseReader] = {name: reader for family in FAMILIES for name, reader in family.FORMATS.items()}

__all__ = ["FORMATS", "Frame", "PoseData", "PoseReader", "PoseView", "collate", "open_data", "view"]


def open_data(config: DataConfig, split: str) -> PoseData:
    """Read and check a split.

    Args:
        config: the data set, and what to do with bad records.
        split: its name in the data set (``config.train``, ``config.val``); each format's layout says what it may be.

    Raises:
        FnaError: the data set or the split is missing, or records are bad and ``on_error`` is ``"fail"``.
    """
    reader = pick(FORMATS, config.format, "data format of poses")
    listing = reader.read(data_root(config, reader), split, config)
    return PoseData(listing, f"{config.format} '{split}'", config.on_error, config.cache_gb)
