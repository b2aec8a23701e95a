"""Image files of a split: every one is decoded and checked once, as many as fit stay in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fna.data.decoding import read_image
from fna.errors import FnaError
from fna.progress import bar

Pixels = NDArray[np.uint8]  # RGB, (height, width, 3)


class Images:
    """The images of a split, by position.

    Making one decodes all of them; as many as `cache_gb` allows stay in memory, where forked workers share them.

    Args:
        paths: a file per position.
        where: what the progress bar calls the split.
        cache_gb: memory for decoded images, in 1e9 bytes.
        read: decodes a file, or draws what the path stands for.

    Attributes:
        paths: as given.
        problems: position -> why the image cannot be read; every other image can.
    """

    def __init__(
        self, paths: Sequence[Path], where: str, cache_gb: float = 4.0, read: Callable[[Path], Pixels] = read_image
    ) -> None:
        self.paths = tuple(paths)
        self.problems: dict[int, str] = {}
        self._read = read
        self._sizes: list[tuple[int, int]] = []
        self._bytes: list[int] = []  # of the files
        self._cache: dict[int, Pixels] = {}
        room = cache_gb * 1e9
        with bar(len(paths), f"reading {where}") as progress:
            for position, (outcome, file_bytes) in enumerate(self._decoded()):
                progress.advance()
                self._bytes.append(file_bytes)
                if isinstance(outcome, FnaError):
                    self.problems[position] = str(outcome)
                    self._sizes.append((0, 0))
                    continue
                self._sizes.append((outcome.shape[0], outcome.shape[1]))
                room -= outcome.nbytes
                if room >= 0:
                    self._cache[position] = outcome

    def __len__(self) -> int:
        return len(self.paths)

    def size(self, position: int) -> tuple[int, int]:
        """Return height and width in pixels; (0, 0) of an image with a problem."""
        return self._sizes[position]

    def load(self, position: int) -> Pixels:
        """Return an image, RGB, uint8, (height, width, 3); it may be the cache's own, so do not write to it.

        Raises:
            FnaError: it cannot be read (any more).
        """
        pixels = self._cache.get(position)
        return self._read(self.paths[position]) if pixels is None else pixels

    def digest(self, position: int) -> str:
        """Return a text that another image hardly has: its name, size in pixels, and bytes on disk."""
        height, width = self._sizes[position]
        return f"{self.paths[position].name!r} {width}x{height} {self._bytes[position]}"

    def _decoded(self) -> Iterator[tuple[Pixels | FnaError, int]]:
        """Yield each image, or what is wrong with it, and its bytes; decoders release the interpreter, so threads help.

        A block at a time, to bound memory.
        """
        total, threads = len(self.paths), min(8, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, total, 4 * threads):
                yield from pool.map(self._attempt, range(start, min(start + 4 * threads, total)))

    def _attempt(self, position: int) -> tuple[Pixels | FnaError, int]:
        path = self.paths[position]
        if not is_utf8(str(path)):
            return FnaError(f"{str(path)!r}: the file's name is not UTF-8; rename it"), 0
        try:
            pixels = self._read(path)
        except FnaError as error:
            return error, 0
        return pixels, path.stat().st_size if self._read is read_image else pixels.nbytes


def is_utf8(name: str) -> bool:
    """Tell whether a name can be written; one with bytes that Python could not decode cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
