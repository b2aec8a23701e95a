"""VOC's xml files as labelling tools leave them, without lists: beside their images, or in a folder of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from fna.data.places import WHOLE, descend, files, has_files, split_names
from fna.data.stamps import Watched

IMAGES = ("images", "JPEGImages", "image", "imgs", "img", "pictures", ".")
ANNOTATIONS = ("annotations", "annotation", "annots", "annot", "xmls", "xml", "labels", "label", "ann")
XML = (".xml",)


class Files(NamedTuple):
    """The annotation files of a split, their images, the lists that name them, or the folders, and remarks."""

    annotations: list[Path]
    images: list[Path]
    lists: tuple[Path, ...] = ()
    folders: tuple[Watched, ...] = ()
    notes: tuple[str, ...] = ()


def find(root: Path, split: str, images: str | None = None) -> Files | None:
    """Return the annotation files of a split, sorted by name, and their images; None: there are none.

    An xml has the image of its own name, or the only one of that name in another case; one without has the path of an
    image that is missing. Images without an xml are not labelled, and left out: a remark says how many.

    Args:
        root: the data set's folder.
        split: its name, or ``"*"``: all there is.
        images: ``data.image_folder``; None: the usual ones.
    """
    for there, here in _places(root, split, images):
        annotations = files(there, XML)
        if not annotations or not has_files(here):
            continue
        image_of: dict[str, Path] = {}
        for path in files(here):
            image_of.setdefault(path.stem, path)
        stems = [path.stem for path in annotations]
        left = _by_plain_name(set(image_of) - set(stems))
        alone = {plain: names[0] for plain, names in left.items() if len(names) == 1}
        stems = [stem if stem in image_of else alone.get(stem.casefold(), stem) for stem in stems]
        found = [image_of.get(stem, here / f"{stem}.jpg") for stem in stems]
        bare = sorted(set(image_of) - set(stems))
        notes = (f"{len(bare)} of {len(image_of)} images have no xml and are left out, e.g. {bare[0]}",) if bare else ()
        return Files(annotations, found, (), (Watched(there, r"[^/]*\.xml"),), notes)
    return None


def _by_plain_name(stems: Iterable[str]) -> dict[str, list[str]]:
    """Return names by what they are in small letters."""
    found: dict[str, list[str]] = {}
    for stem in stems:
        found.setdefault(stem.casefold(), []).append(stem)
    return found


def _places(root: Path, split: str, images: str | None) -> Iterator[tuple[Path, Path]]:
    """Yield where the annotations, and where the images of a split may be: apart, then side by side."""
    names = (".",) if split == WHOLE else split_names(split)
    usual: Sequence[str] = IMAGES if images is None else (images,)
    at = cache(partial(descend, root))  # the same few places are looked at again and again
    for name in names:
        for first in ANNOTATIONS:
            for second in usual:
                for ways in (((first, name), (second, name)), ((name, first), (name, second))):
                    there, here = (at(*way) for way in ways)
                    if there is not None and here is not None:
                        yield there, here
        for folder in usual:
            for way in ((folder, name), (name, folder)):
                if (both := at(*way)) is not None:
                    yield both, both
