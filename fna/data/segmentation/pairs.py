"""Images and masks as people keep them: two folders or one, with or without splits, a mask's name near its image's.

Looked for, in this order and in any case: a folder of images and one of masks with a folder a split in each
(``images/training``, ``annotations/training``), a folder a split with both (``train/images``, ``train/masks``), or with
images and masks side by side (``train/cell.jpg``, ``train/cell_mask.png``), or two folders for it (``train``,
``train_labels``). Without splits: ``images`` and ``masks``, or one folder with both.

A mask belongs to the image whose name is left when habits of naming are taken off both: ``_mask``, ``-label``,
``_annotation``, ``_gt`` ... of masks, ``_image``, ``_rgb``, ``_sat`` ... of images.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from fna.config import SegmentationDataConfig
from fna.data.listing import Listing, Pairs, Reader
from fna.data.places import (
    ENDINGS,
    WHOLE,
    MissingSplitError,
    descend,
    has_files,
    split_names,
    walk,
)
from fna.data.segmentation.legend import read_legend
from fna.data.stamps import Sources, Watched
from fna.errors import FnaError
from fna.files import read_text
from fna.progress import say

IMAGES = (
    *("images", "image", "imgs", "img", "img_dir", "image_dir", "jpegimages", "original_images", "rgb", "photos"),
    *("pictures", "input", "inputs", "train_images", "data"),
)
MASKS = (
    *("masks", "mask", "annotations", "annotation", "annots", "annot", "ann_dir", "labels", "label", "label_images"),
    *("segmentationclass", "segmentation", "segmentations", "segmentationclasscontext", "gt", "groundtruth"),
    *("ground_truth", "mask_images", "label_images_semantic", "target", "targets", "matting", "seg"),
)
OF_MASKS = r"masks?|annotations?|annot|labels?|labelids|seg|segmentation|gt|ground_?truth|matte|target|l"
OF_IMAGES = r"images?|img|rgb|sat|photo|input|orig(?:inal)?|color"
MASK_NAME = re.compile(
    rf"(?:[_.\- ](?:{OF_MASKS})|(?<=[a-z0-9])(?:Mask|Label|GT))$|^(?:masks?|labels?|gt|seg)[_\-]", re.I
)
IMAGE_NAME = re.compile(rf"[_.\- ](?:{OF_IMAGES})$|^(?:{OF_IMAGES})[_\-](?=.*\D)", re.I)
OF_IMAGE = rf"({'|'.join(map(re.escape, ENDINGS))})"
LAYOUT = """\
  ROOT/images/train/NAME.jpg, ROOT/annotations/train/NAME.png   or img_dir/, ann_dir/, training/, validation/ ...
  ROOT/train/images/NAME.jpg, ROOT/train/masks/NAME.png         or both beside each other: NAME_mask.png
  ROOT/images/NAME.jpg, ROOT/masks/NAME.png                     or all in ROOT: without splits, see data.split
  data.classes in the order of the labels, data.labels, or Roboflow's _classes.csv; data.ignore_label"""


class Place(NamedTuple):
    """A folder of images and one of masks; the same, if they lie side by side."""

    images: Path
    masks: Path


def read(root: Path, split: str, config: SegmentationDataConfig) -> Listing:
    """List a split."""
    place = find(root, split, config.image_folder)
    if place is None:
        raise MissingSplitError(f"there are no images with masks of '{split}' below {root}; expected\n{LAYOUT}")
    images, masks, alone = match(place)
    known, tables = _named(root, place, config)
    legend = read_legend(known, masks)
    if alone:
        say(f"data: {len(alone)} masks have no image, e.g. {alone[0].name}")
    names = tuple(path.relative_to(place.images).as_posix() for path in images)
    pattern = f"(?!\\.)[^/]*{OF_IMAGE}" if place.images == place.masks else f"(?!(.*/)?\\.).*{OF_IMAGE}"
    sources = Sources([*tables, *alone], [Watched(path, pattern) for path in dict.fromkeys(place)])
    return Listing(names, legend, Pairs(images, masks, legend.colored), sources, learned=split in (config.train, WHOLE))


def find(root: Path, split: str, images: str | None = None) -> Place | None:
    """Return where images and masks of a split are; None: nowhere.

    Args:
        root: the data set's folder.
        split: its name, or `WHOLE`.
        images: ``data.image_folder``; None: the usual ones.
    """
    names = (".",) if split == WHOLE else split_names(split)
    usual = (images,) if images is not None else IMAGES
    at = cache(partial(descend, root))  # the same few places are looked at again and again
    for first, second in ((a, b) for a in usual for b in MASKS):
        for name in names:
            for ways in (((first, name), (second, name)), ((name, first), (name, second))):
                place = [at(*way) for way in ways]
                if place[0] and place[1] and place[0] != place[1] and _holds(place[0], place[1]):
                    return Place(place[0], place[1])
    return next(_besides(root, names), None)


def _besides(root: Path, names: Sequence[str]) -> Iterator[Place]:
    """Yield where images and masks of a split are side by side, or in two folders of its names."""
    for name in names:
        own = descend(root, name)
        if own is None:
            continue
        found = [Place(own, other) for kind in MASKS for form in (f"{name}_{kind}", f"{name}{kind}") if name != "."
                 for other in [descend(root, form)] if other and _holds(own, other)]  # fmt: skip
        yield from found
        if any(True for _ in _beside(own)):
            yield Place(own, own)


def _holds(images: Path, masks: Path) -> bool:
    """Tell whether there are images in one folder and possible masks in the other, at any depth."""
    return next(walk(images), None) is not None and next(walk(masks), None) is not None


def _beside(own: Path) -> Iterator[Path]:
    """Yield the masks in a folder, not below it, that lie beside their images."""
    if not has_files(own):
        return
    here = [path for path in walk(own) if path.parent == own]
    stems = {plain_name(path.stem, mask=False) for path in here if not MASK_NAME.search(path.stem)}
    for path in here:
        if MASK_NAME.search(path.stem) and plain_name(path.stem) in stems:
            yield path


def match(place: Place) -> tuple[list[Path], list[Path], list[Path]]:
    """Return images, their masks, and masks without image; an image without mask has the path of one that is missing.

    Raises:
        FnaError: an image may have several masks.
    """
    if place.images == place.masks:
        here = [path for path in walk(place.images) if path.parent == place.images]
        masks = [path for path in here if MASK_NAME.search(path.stem)]
        images = [path for path in here if not MASK_NAME.search(path.stem)]
    else:
        images, masks = list(walk(place.images)), list(walk(place.masks))
    by_name: dict[str, list[Path]] = {}
    for path in masks:
        for key in dict.fromkeys((_key(path, place.masks, path.stem), _key(path, place.masks, plain_name(path.stem)))):
            by_name.setdefault(key, []).append(path)
    found: list[Path] = []
    for path in images:
        keys = (_key(path, place.images, path.stem), _key(path, place.images, plain_name(path.stem, mask=False)))
        own = next((by_name[key] for key in keys if key in by_name), [])
        if len(own) > 1:
            shown = " or ".join(sorted(mask.name for mask in own)[:3])
            raise FnaError(f"the mask of {path} may be {shown}; keep one of them in {place.masks}")
        found.append(own[0] if own else place.masks / f"{path.stem}.png")
    return images, found, sorted(set(masks) - set(found))


def plain_name(stem: str, *, mask: bool = True) -> str:
    """Return a name without its ending as it is compared: the habits of naming masks, or images, are taken off.

    >>> plain_name("cell_01_mask"), plain_name("Cell_01_image", mask=False), plain_name("cellMask")
    ('cell_01', 'cell_01', 'cell')
    """
    return (MASK_NAME if mask else IMAGE_NAME).sub("", stem).casefold() or stem.casefold()


def _key(path: Path, base: Path, name: str) -> str:
    return f"{path.parent.relative_to(base).as_posix()}/{name}".casefold()


def _named(root: Path, place: Place, config: SegmentationDataConfig) -> tuple[SegmentationDataConfig, list[Path]]:
    """Return settings that name the classes, by Roboflow's table if they do not, and what was read for that."""
    table = next((path for base in (place.masks, root) if (path := base / "_classes.csv").is_file()), None)
    if config.classes is not None or config.labels is not None or table is None:
        return config, []
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(read_text(table).splitlines()) if row]
        named = {int(row[0]): row[1] for row in rows[1:]}
    except (OSError, ValueError, IndexError) as error:
        raise FnaError(f"cannot read {table}: {error}; expected lines 'Pixel Value, Class'") from error
    return config.model_copy(update={"labels": named}), [table]


def _mark(root: Path, config: SegmentationDataConfig) -> str:
    """Return what makes it such a data set."""
    for split in (config.train, WHOLE):
        place = find(root, split, config.image_folder)
        if place is not None and split == config.train:
            here, there = (path.relative_to(root).as_posix() for path in place)
            return f"maybe images in {here}/ and masks in {there}/"
        if place is not None and next(iter(match(place)[0]), None) is not None:
            here, there = (path.relative_to(root).as_posix() for path in place)
            return f"maybe images in {here}/ and masks in {there}/, without splits"
    return ""


FORMATS = {"pairs": Reader(read, LAYOUT, mark=_mark)}
