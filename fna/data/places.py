"""Where people put things: the names of splits in use, all of a data set in place of a split, and near file names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fna.errors import FnaError

WHOLE = "*"  # in place of a split's name: everything there is
ALIASES = {  # as data sets and labelling tools write them
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
ENDINGS = (  # what files of images are called
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)


class MissingSplitError(FnaError):
    """There is no such split in the data set; it may have others, or none at all."""


def split_names(split: str) -> tuple[str, ...]:
    """Return a split's own name, then what others call it.

    >>> split_names("val"), split_names("fold1")
    (('val', 'valid', 'validation'), ('fold1',))
    """
    return tuple(dict.fromkeys((split, *ALIASES.get(split, ()))))


def child(folder: Path, name: str) -> Path | None:
    """Return the folder of a name, in any case, in another folder; None: there is none."""
    wanted = name.casefold()
    return next((path for path in subfolders(folder) if path.name.casefold() == wanted), None)


def descend(root: Path, *names: str) -> Path | None:
    """Return the folder that names lead to, in any case; ``"."`` stays."""
    found: Path | None = root
    for name in names:
        if found is None:
            return None
        found = found if name == "." else child(found, name)
    return found


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted; none where it is none."""
    return [Path(entry.path) for entry in _entries(folder) if entry.is_dir()]


def files(folder: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """Return the files of some endings in a folder, not below it, sorted; those that begin with a dot are no data."""
    return [
        Path(entry.path)
        for entry in _entries(folder)
        if entry.name.lower().endswith(tuple(endings)) and not entry.name.startswith(".") and entry.is_file()
    ]


def has_files(folder: Path | None, endings: Sequence[str] = ENDINGS) -> bool:
    """Tell whether there is a file of some endings in a folder; None has none."""
    return folder is not None and any(True for _ in files(folder, endings))


def walk(folder: Path, endings: Sequence[str] = ENDINGS) -> Iterator[Path]:
    """Yield the files of some endings in and below a folder, sorted within each; folders that begin with a dot not."""
    for parent, names, found in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(found):
            if name.lower().endswith(tuple(endings)) and not name.startswith("."):
                yield Path(parent, name)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (OSError, ValueError):
        return []
