"""Fingerprints of the files of a data set, by which a later command knows that they are still those that were checked.

Size and time of a file tell most cheaply that nothing changed. Where they differ, as in a copy of the data set, the
SHA-256 of its bytes decides.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

THREADS = min(8, os.cpu_count() or 1)  # decoders and digests release the interpreter
NAMED = 5  # files that a message names


class Stamp(NamedTuple):
    """Bytes and time of a file, and the SHA-256 of its content; '' of a file that cannot be read."""

    size: int
    mtime_ns: int
    sha256: str


class Watched(NamedTuple):
    """A folder whose files, at any depth, are records if their path from there matches a pattern, in any case."""

    folder: Path
    pattern: str


@dataclass(frozen=True)
class Sources:
    """What a split is read from.

    Attributes:
        files: all of them, also those that were looked for and are not there.
        folders: those that are searched for files, so that another file there is another record.
        stamps: of the files whose content was at hand.
    """

    files: list[Path] = field(default_factory=list)
    folders: list[Watched] = field(default_factory=list)
    stamps: dict[Path, Stamp] = field(default_factory=dict)

    def of_a_cut(self) -> Sources:
        """Return the sources of some of the records, which are kept by name: another file is in none of the splits."""
        return Sources(self.files, [], self.stamps)

    def to_json(self, root: Path) -> dict[str, Any]:
        """Return ``files``, stamps by name below `root`, and ``folders``; files without a stamp are read now."""
        names = {path: name for path in dict.fromkeys(self.files) if (name := below(path, root)) is not None}
        rest = [path for path in names if path not in self.stamps]
        with ThreadPoolExecutor(THREADS) as pool:
            stamps = {**self.stamps, **dict(zip(rest, pool.map(stamp_file, rest), strict=True))}
        folders = [(below(folder, root), pattern) for folder, pattern in self.folders]
        return {
            "files": {name: stamps[path] for path, name in names.items()},
            "folders": [[name, pattern] for name, pattern in folders if name is not None],
        }


def stamp_file(path: Path) -> Stamp | None:
    """Return a file's stamp; None where there is no file."""
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            return None
    except (OSError, ValueError):
        return None
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        digest = ""
    return Stamp(info.st_size, info.st_mtime_ns, digest)


def below(path: Path, root: Path) -> str | None:
    """Return a path from the root, an absolute one where it leads elsewhere; None: its name is not UTF-8."""
    whole, start = os.path.abspath(path), os.path.abspath(root)
    name = os.path.relpath(whole, start) if Path(whole).is_relative_to(start) else whole
    try:
        name.encode()
    except UnicodeEncodeError:
        return None
    return Path(name).as_posix()


@dataclass(frozen=True)
class Compared:
    """Files as they were and as they are.

    Attributes:
        changes: kind -> names: ``"changed"``, ``"missing"``, ``"added"``; only kinds that occur.
        stamps: the new stamps of files whose bytes are the same at another time.
    """

    changes: dict[str, list[str]]
    stamps: dict[str, Stamp]


def compare(files: Mapping[str, Sequence[Any] | None], folders: Sequence[Sequence[str]], root: Path) -> Compared:
    """Compare the files of a data set with what `Sources.to_json` said of them."""
    changes: dict[str, list[str]] = {"changed": [], "missing": [], "added": []}
    suspects: list[str] = []
    for name, then in files.items():
        now = _state(root / name)
        if then is None or now is None:
            if then is not now:
                changes["added" if then is None else "missing"].append(name)
        elif now[0] != then[0]:
            changes["changed"].append(name)
        elif now[1] != then[1]:
            suspects.append(name)
    stamps: dict[str, Stamp] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for name, stamp in zip(suspects, pool.map(stamp_file, (root / name for name in suspects)), strict=True):
            then = files[name]
            if stamp is not None and then is not None and stamp.sha256 == then[2]:
                stamps[name] = stamp
            else:
                changes["changed"].append(name)
    for folder, pattern in folders:
        changes["added"] += [name for name in _matching(root, folder, pattern) if name not in files]
    return Compared({kind: sorted(names) for kind, names in changes.items() if names}, stamps)


def describe(changes: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a line per kind of change.

    >>> describe({"changed": ["a.png", "b.png"]})
    ['2 changed: a.png, b.png']
    """
    return [
        f"{len(names)} {kind}: {', '.join(names[:NAMED])}{' ...' if len(names) > NAMED else ''}"
        for kind, names in changes.items()
    ]


def _state(path: Path) -> tuple[int, int] | None:
    """Return bytes and time of a file, None where there is none."""
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return None
    return (info.st_size, info.st_mtime_ns) if stat.S_ISREG(info.st_mode) else None


def _matching(root: Path, folder: str, pattern: str) -> Iterator[str]:
    """Yield the files of a `Watched` folder by their names below the root."""
    start, wanted = root / folder, re.compile(pattern, re.IGNORECASE)
    for parent, _, names in os.walk(start):
        for name in names:
            path = Path(parent, name)
            known = below(path, root)
            if known is not None and wanted.fullmatch(path.relative_to(start).as_posix()):
                yield known
