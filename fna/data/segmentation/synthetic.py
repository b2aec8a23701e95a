"""The synthetic street with a class for every pixel; see `fna.data.synthetic`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fna.config import SegmentationDataConfig
from fna.data.listing import Arrays, Listing, Reader, class_labels
from fna.data.synthetic import CLASSES, scene
from fna.data.synthetic.scenes import SIZE_HW

LAYOUT = "  nothing: the images are drawn"


def read(root: Path, split: str, config: SegmentationDataConfig) -> Listing:
    """List the scenes of a split; `config.images` says how many, `config.eval_size` how large."""
    names = tuple(f"{split}_{index:04d}.png" for index in range(config.images))
    labels = class_labels(len(CLASSES), config.ignore_label)
    return Listing(
        names, tuple(CLASSES), tuple(CLASSES.values()), labels, partial(_read, split, config.eval_size or SIZE_HW)
    )


def _read(split: str, size_hw: tuple[int, int], position: int) -> Arrays:
    drawn = scene(0, split, position, size_hw)
    return drawn.image, drawn.mask


FORMATS = {"synthetic": Reader(read, LAYOUT, on_disk=False)}
