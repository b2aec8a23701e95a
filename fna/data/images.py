"""Image files of a split: every one is decoded and checked once, as many as fit stay in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fna.data.cache import Cache
from fna.data.decoding import read_image
from fna.data.hashes import difference_hash
from fna.data.stamps import Stamp
from fna.errors import FnaError

Pixels = NDArray[np.uint8]  # RGB, (height, width, 3)


class Images:
    """The images of a split, by position.

    Making one decodes all of them, unless their sizes are known from an index.

    Args:
        paths: a file per position.
        where: what the progress bar calls the split.
        cache_gb: memory for decoded images, in 1e9 bytes.
        read: makes the image of a path; None: the paths are image files.
        sizes: height and width of every image, if they were checked before.

    Attributes:
        paths: as given.
        on_disk: whether they are image files.
        sizes: height and width in pixels; (0, 0) of an image with a problem.
        problems: position -> why the image cannot be read; every other image can.
        stamps: of the files that were checked now.
        hashes: position -> `hashes.difference_hash`, of files that were checked, now or before.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        where: str,
        cache_gb: float = 4.0,
        read: Callable[[Path], Pixels] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.paths = tuple(paths)
        self.sizes = list(sizes or ())
        self.problems: dict[int, str] = {}
        self.stamps: dict[Path, Stamp] = {}
        self.hashes: dict[int, int] = {}
        self.on_disk = read is None
        self._read = read
        self._cache: Cache[Pixels] = Cache(self._decode, where, cache_gb)
        if sizes is None:
            self._check()

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, position: int) -> Pixels:
        """Return an image, RGB, uint8, (height, width, 3); it may be the cache's own, so do not write to it.

        Raises:
            FnaError: it cannot be read (any more).
        """
        return self._cache.load(position)

    def preload(self) -> None:
        """Decode as many images as stay in memory, so that workers which are forked later share them."""
        self._cache.preload((n, 3 * height * width) for n, (height, width) in enumerate(self.sizes) if height)

    def _check(self) -> None:
        for position, outcome in enumerate(self._cache.decode_all(len(self.paths))):
            if isinstance(outcome, FnaError):
                self.problems[position] = str(outcome)
            size = (0, 0) if isinstance(outcome, FnaError) else (outcome.shape[0], outcome.shape[1])
            self.sizes.append(size)

    def _decode(self, position: int) -> Pixels:
        path = self.paths[position]
        if not is_utf8(str(path)):
            raise FnaError(f"{str(path)!r}: the file's name is not UTF-8; rename it")
        if self._read is not None:
            return self._read(path)
        if position < len(self.sizes):
            return read_image(path)
        pixels = read_image(path, self.stamps)
        self.hashes[position] = difference_hash(pixels)
        return pixels


def is_utf8(name: str) -> bool:
    """Tell whether a name can be written; one with bytes that Python could not decode cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
