"""Files under the names that annotations give them, or nearly: other case, slashes, escapes, leading folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

MANY = 200_000  # files below a folder that are looked through


def spellings(name: str) -> Iterator[str]:
    r"""Yield a name, then as other programs mean it: with slashes, unescaped, then without its leading folders.

    >>> list(spellings(r"images\train\my%20dog.jpg"))[1:]
    ['images/train/my%20dog.jpg', 'images/train/my dog.jpg', 'train/my dog.jpg', 'my dog.jpg']
    """
    slashed = name.replace("\\", "/")
    plain = unquote(slashed)
    parts = PurePosixPath(plain).parts
    yield from dict.fromkeys([name, slashed, plain, *("/".join(parts[n:]) for n in range(1, len(parts)))])


@dataclass
class Names:
    """The files below a folder, found by names that may be spelt otherwise.

    Attributes:
        folder: where names start.
        others: name as given -> the file it stands for, of those that are spelt otherwise.
    """

    folder: Path
    others: dict[str, str] = field(default_factory=dict)
    _index: dict[str, list[str]] | None = None

    def find(self, name: str) -> Path:
        """Return the file of a name; where there is none, what it would be called."""
        exact = self.folder / name
        if _is_file(exact):
            return exact
        found = self._look(name)
        if found is None:
            return exact
        self.others[name] = found
        return self.folder / found

    def note(self) -> list[str]:
        """Return a remark on the names that are spelt otherwise, if any are."""
        if not self.others:
            return []
        given, found = next(iter(self.others.items()))
        return [f"{len(self.others)} files have other names than the annotations say, e.g. {given!a} is {found}"]

    def _look(self, name: str) -> str | None:
        for spelling in spellings(name):
            if not spelling.startswith(("/", "..")) and _is_file(self.folder / spelling):
                return spelling
        if self._index is None:
            self._index = _by_plain_name(self.folder)
        for spelling in spellings(name):
            found = self._index.get(spelling.casefold(), [])
            if len(found) == 1:
                return found[0]
        return None


def _by_plain_name(folder: Path) -> dict[str, list[str]]:
    """Return the files below a folder, as relative paths, by that path in small letters."""
    files: dict[str, list[str]] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name).relative_to(folder).as_posix()
            files.setdefault(path.casefold(), []).append(path)
        if len(files) > MANY:
            break
    return files


def find_all(folder: Path, names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the files of names in a folder, and a remark if some are spelt otherwise."""
    known = Names(folder)
    return [known.find(name) for name in names], known.note()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # ValueError: a NUL or an odd character in the name
        return False
