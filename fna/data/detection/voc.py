"""Pascal VOC detection: one xml an image. Source: Everingham et al., The Pascal VOC Challenge, IJCV 2010.

VOC counts pixels from 1, and its xmax and ymax are inside the box: here x0 = xmin - 1, y0 = ymin - 1, x1 = xmax, y1 =
ymax. Files that count from 0 are read the same way: half a pixel off, which is less than anyone draws boxes to. A box
whose xmin is its xmax (or ymin its ymax) has no area: such are slips of the mouse, not things one pixel wide.

The classes are ``data.classes``; without it VOC's 20 if the train split (``data.train``) has no other names, else the
names in the train split, sorted. So all splits agree, whichever is opened. With ``data.classes``, objects of other
names are left alone; without, they are of an unknown class.

Elements may be written in any case, and in a namespace. A ``<size>`` of 0 says nothing. A document type declaration,
which no VOC file has, is refused, and entities with it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

from fna.config import DataConfig
from fna.data.decoding import only_images
from fna.data.detection.checks import NO_AREA, SHOWN
from fna.data.detection.listing import (
    BAD_FILE,
    MISSING_FILE,
    UNKNOWN_CLASS,
    UNREADABLE_BOX,
    Box,
    DetectionListing,
    DetectionReader,
    Flaw,
    Record,
    choose_classes,
)
from fna.data.detection.voc_folders import Files, find
from fna.data.listing import VOC_CLASSES, refuse_outside, require_dir, split_lines
from fna.data.places import WHOLE
from fna.data.stamps import Sources
from fna.errors import FnaError, nearest, printable, short
from fna.files import read_bytes

CLASSES = VOC_CLASSES[1:]
SIDES = ("xmin", "ymin", "xmax", "ymax")
COLUMN = re.compile(r"\s+(1|0|-1)$")  # whether the image shows the class that the list is about
LAYOUT = """\
  ROOT/ImageSets/Main/train.txt   lines: NAME; 1, 0 or -1 after it, as in VOC's lists of a class, does not count
  ROOT/Annotations/NAME.xml
  ROOT/JPEGImages/NAME.jpg        or any other image format; data.image_folder where it is another folder
  or, without ImageSets, ROOT/train/NAME.xml beside its image (Roboflow, LabelImg), ROOT/annots/train/ and
  ROOT/images/train/; without splits, ROOT/annots/ and ROOT/images/, or all in ROOT: see data.split"""


def read(root: Path, split: str, config: DataConfig) -> DetectionListing:
    """List a split of Pascal VOC."""
    here = _files(root, split, config)
    others = [] if config.train == split else _files(root, config.train, config).annotations
    annotations = [*here.annotations, *others]
    refuse_outside(annotations, root, config, f"annotations of '{split}'")
    parsed = [_parse(path) for path in here.annotations]
    learned = [_parse(path) for path in others] if others else parsed
    where = f"'{config.train}' of {root}"
    known = _known(learned, where)
    notes = []
    if config.classes is None and known and set(known) <= set(CLASSES):
        if len(known) < len(CLASSES):
            notes.append(
                f"{where} has {len(known)} of VOC's {len(CLASSES)} classes, and the network learns all {len(CLASSES)}; "
                f"for those alone type --data.classes '[{', '.join(known)}]'"
            )
        known = list(CLASSES)
    classes = choose_classes(known, config.classes, where)
    records = []
    for number, (path, tree) in enumerate(zip(here.images, parsed, strict=True), 1):
        if isinstance(tree, Flaw):
            records.append(Record(path.name, path, number, flaws=(tree,)))
            continue
        boxes = [_box(node, f"object {i}", classes) for i, node in enumerate(tree.findall("object"), 1)]
        if config.classes is not None:
            boxes = [box for box in boxes if box.flaw is None or box.flaw.kind != UNKNOWN_CLASS]
        records.append(Record(path.name, path, number, tuple(boxes), _size(tree)))
    sources = Sources([*here.lists, *annotations], list(here.folders))
    numbers = tuple(range(1, len(classes) + 1))
    return DetectionListing(tuple(records), classes, numbers, notes=(*notes, *here.notes), sources=sources)


def _files(root: Path, split: str, config: DataConfig) -> Files:
    """Return the annotation files of a split with their images: by VOC's lists, or where there are none, by folders."""
    if not (root / "ImageSets" / "Main").is_dir():
        found = find(root, split, config.image_folder)
        if found is not None:
            return found
    stems = _stems(root, split)
    image_of = _finder(require_dir(root / (config.image_folder or "JPEGImages"), LAYOUT))
    lists = tuple(_list_file(root, name) for name in dict.fromkeys((split, config.train)))
    return Files([_annotation_file(root, stem) for stem in stems], [image_of(stem) for stem in stems], lists)


def _known(learned: Sequence[ElementTree.Element | Flaw], where: str) -> list[str]:
    """Return the names of all objects, sorted; if bad files are why there are none, say what is wrong with them."""
    names = {_name(node) for tree in learned if not isinstance(tree, Flaw) for node in tree.findall("object")} - {""}
    flaws = [tree for tree in learned if isinstance(tree, Flaw)]
    if flaws and not names:
        shown = [f"  {printable(flaw.place)}: {flaw.detail}" for flaw in flaws[:SHOWN]]
        more = [f"  ... and {len(flaws) - SHOWN} more"] if len(flaws) > SHOWN else []
        first = f"{where} names no classes, as {len(flaws)} of {len(learned)} annotation files are missing or bad:"
        raise FnaError("\n".join([first, *shown, *more, f"mend them; expected\n{LAYOUT}"]))
    return sorted(names)


def _stems(root: Path, split: str) -> list[str]:
    """Return the names of a split without endings."""
    lines = [line for _, line in split_lines(_list_file(root, split), LAYOUT)]
    names = [  # a name may end like a column: 'photo 1'
        line if os.path.exists(_annotation_file(root, line)) else COLUMN.sub("", line) for line in lines
    ]
    return [os.path.splitext(name)[0] if name.lower().endswith((".jpg", ".jpeg", ".png")) else name for name in names]


def _list_file(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Main" / f"{split}.txt"


def _annotation_file(root: Path, stem: str) -> Path:
    return root / "Annotations" / f"{stem}.xml"


def _finder(folder: Path) -> Callable[[str], Path]:
    """Return a function from a name without ending to the image's path."""
    files: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        files.setdefault(os.path.splitext(name)[0], []).append(name)
    found = {stem: folder / only_images(names)[0] for stem, names in files.items()}
    plain: dict[str, list[Path]] = {}
    for stem, path in found.items():
        plain.setdefault(stem.casefold(), []).append(path)
    alone = {stem: paths[0] for stem, paths in plain.items() if len(paths) == 1}
    return lambda stem: found.get(stem) or alone.get(stem.casefold(), folder / f"{stem}.jpg")


class _Tree(ElementTree.TreeBuilder):
    """Builds a tree of elements, and refuses what could expand or load something."""

    def doctype(self, name: str, public: str | None, system: str | None) -> NoReturn:
        raise FnaError("it has a document type declaration, which annotations do not need; delete it")


@lru_cache(1024)
def _plain_tag(tag: str) -> str:
    """Return an element's name without its namespace, in small letters.

    >>> _plain_tag("{http://example.org/voc}Object")
    'object'
    """
    return tag.rpartition("}")[2].lower()


def _parse(path: Path) -> ElementTree.Element | Flaw:
    """Return the root element of an annotation file, or why it is none."""
    try:
        if not path.exists():
            return Flaw(MISSING_FILE, path.name, f"not in {path.parent}{_neighbour(path)}")
        text = read_bytes(path)
    except (FnaError, OSError, ValueError) as error:
        return Flaw(BAD_FILE, path.name, short(getattr(error, "strerror", None) or str(error)))
    try:
        parser = ElementTree.XMLParser(target=_Tree())
        parser.feed(text)
        tree: ElementTree.Element = parser.close()
        for node in tree.iter():
            node.tag = _plain_tag(node.tag)
    except (ElementTree.ParseError, FnaError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        other = re.match(rb"<\?xml[^>]*encoding=[\"'](?!utf-8)([\w-]+)", text, re.IGNORECASE)
        hint = f" (its encoding is {other[1].decode()}: save it as UTF-8)" if other else ""
        return Flaw(BAD_FILE, path.name, short(str(error)) + hint)
    if tree.tag != "annotation":
        return Flaw(BAD_FILE, path.name, f"it holds <{short(tree.tag)}>; expected <annotation>")
    return tree


def _box(node: ElementTree.Element, place: str, classes: Sequence[str]) -> Box:
    """Return an object's box."""
    name, bounds, difficult = _name(node), node.find("bndbox"), (node.findtext("difficult") or "0").strip()
    texts = [None if bounds is None else bounds.findtext(side) for side in SIDES]
    flaw = None
    if name not in classes:
        flaw = Flaw(UNKNOWN_CLASS, place, f"{short(name)}{nearest(name, classes)}")
        return Box(place, None, -1, flaw=flaw)
    sides = [_number(text) for text in texts]
    if None in sides:
        shown = ", ".join(f"{side} {short(text)}" for side, text in zip(SIDES, texts, strict=True))
        flaw = Flaw(UNREADABLE_BOX, place, shown)
    elif difficult not in ("0", "1"):
        flaw = Flaw(UNREADABLE_BOX, place, f"difficult is {short(difficult)}; expected 0 or 1")
    else:
        x0, y0, x1, y1 = sides
        if x0 == x1 or y0 == y1:
            flaw = Flaw(NO_AREA, place, f"xmin {x0:g}, xmax {x1:g}, ymin {y0:g}, ymax {y1:g}")
        sides[:2] = [x0 - 1, y0 - 1]  # type: ignore[operator]
    return Box(place, tuple(sides), classes.index(name), difficult=difficult == "1", flaw=flaw)


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """Return the declared height and width; None where they are absent, no whole numbers, or 0."""
    height, width = (_number(tree.findtext(f"size/{key}")) or 0 for key in ("height", "width"))
    if height > 0 and width > 0 and math.isfinite(height) and math.isfinite(width):
        return int(height), int(width)
    return None


def _name(node: ElementTree.Element) -> str:
    return (node.findtext("name") or "").strip()


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _neighbour(path: Path) -> str:
    try:
        return nearest(path.name, os.listdir(path.parent))
    except (OSError, ValueError):
        return " (there is no such folder)"


def _mark(root: Path, config: DataConfig) -> str:
    """Return what makes it such a data set."""
    if (root / "ImageSets" / "Main").is_dir():
        return "ImageSets/Main/"
    for split in (config.train, WHOLE):
        found = find(root, split, config.image_folder)
        if found is not None:
            return f"an xml for an image, e.g. {found.annotations[0].relative_to(root).as_posix()}"
    return ""


FORMATS = {"voc": DetectionReader(read, LAYOUT, mark=_mark)}
