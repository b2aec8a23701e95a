"""The synthetic street with a class for every pixel; see `fna.data.synthetic`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fna.config import SegmentationDataConfig
from fna.data.listing import Arrays, Legend, Listing, Reader, class_labels
from fna.data.segmentation.legend import read_legend
from fna.data.synthetic import CLASSES, scene
from fna.data.synthetic.scenes import SIZE_HW

LEGEND = Legend(tuple(CLASSES), tuple(CLASSES.values()), class_labels(len(CLASSES)))
LAYOUT = "  nothing: the images are drawn"


def read(root: Path, split: str, config: SegmentationDataConfig) -> Listing:
    """List the scenes of a split; `config.images` says how many, `config.eval_size` how large."""
    names = tuple(f"{split}_{index:04d}.png" for index in range(config.images))
    legend = read_legend(config, (), LEGEND)
    return Listing(names, legend, partial(_read, split, config.eval_size or SIZE_HW), learned=split == config.train)


def _read(split: str, size_hw: tuple[int, int], position: int) -> Arrays:
    drawn = scene(0, split, position, size_hw)
    return drawn.image, drawn.mask


FORMATS = {"synthetic": Reader(read, LAYOUT, on_disk=False)}
