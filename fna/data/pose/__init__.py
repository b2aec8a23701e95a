"""Pose data: a record is a person in an image, `open_data` reads and checks a split, `transforms` cuts crops.

In images, a coordinate of 0 is the centre of the first pixel, as the data sets have it; MPII's, which count from 1, are
moved. Boxes are x0, y0, width, height, and begin and end at the rims of pixels: the whole image is (0, 0, w, h). In
crops, coordinates are continuous: the first pixel covers 0 to 1, so a mirror is x -> width - x. `transforms.Frame`
goes from one to the other.

A joint's visibility is 0 = unlabelled, 1 = labelled but hidden, 2 = seen. Unlabelled joints are at (0, 0) and enter
nothing. A labelled joint outside its image is counted and not learned, nothing there could be; it is scored, as the
scripts of MPII and COCO do. Where a person has no box, the one around the joints inside the image is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fna.config import DataConfig
from fna.data.cutting import Lists, read_split
from fna.data.listing import data_root, refuse_outside
from fna.data.pose import coco, deeplabcut, lsp, mpii, synthetic, yolo
from fna.data.pose.listing import PoseListing, PoseReader
from fna.data.pose.people import PoseData
from fna.data.recognising import AUTO, auto_layout, pick_reader, recognise
from fna.errors import FnaError

FAMILIES = (coco, deeplabcut, lsp, mpii, synthetic, yolo)
FORMATS: dict[str, PoseReader] = {name: reader for family in FAMILIES for name, reader in family.FORMATS.items()}


def _read_auto(root: Path, split: str, config: DataConfig) -> PoseListing:
    """List a split in whatever format it is."""
    known = recognise(config, root, FORMATS)
    return FORMATS[known.format].read(root, split, known)


FORMATS[AUTO] = PoseReader(_read_auto, auto_layout(FORMATS))
COARSEST = 32  # crop pixels per pixel of the map that heads start from

__all__ = ["FORMATS", "PoseData", "PoseReader", "open_data"]


def open_data(
    config: DataConfig, split: str, index: Mapping[str, Any] | None = None, lists: Lists | None = None
) -> PoseData:
    """Read and check a split, or open it as an index has it.

    Args:
        config: the data set, and what to do with bad records.
        split: its name in the data set (``config.train``, ``config.val``); each format's layout says what it may be.
        index: what the split's `to_index` said when it was checked.
        lists: the cut of a data set that ``data.split`` cuts; None: it is made anew.

    Raises:
        FnaError: the crop does not fit any network, the data set or the split is missing, or records are bad and
            ``on_error`` is ``"fail"``.
    """
    height, width = config.crop
    if height % COARSEST or width % COARSEST:
        good = [max(1, round(side / COARSEST)) * COARSEST for side in config.crop]
        raise FnaError(f"data.crop is {[height, width]}; pose needs multiples of {COARSEST}, e.g. {good}")
    if config.eval_size and config.eval_size != config.crop:
        raise FnaError(
            f"data.eval_size is {list(config.eval_size)}; persons are scored at data.crop {[height, width]}: "
            "leave data.eval_size out"
        )
    reader = pick_reader(FORMATS, config.format, "pose")
    root, where = data_root(config, reader), f"{config.format} '{split}'"
    if index is not None:
        return PoseData.from_index(index, root, where, config.cache_gb)
    config = recognise(config, root, FORMATS, aloud=split == config.train)
    reader, where = FORMATS[config.format], f"{config.format} '{split}'"
    listing = read_split(reader, root, split, config, lists)
    if reader.on_disk:
        refuse_outside(listing.paths, root, config, f"images of '{split}'")
    return PoseData(listing, where, config.on_error, config.cache_gb)
