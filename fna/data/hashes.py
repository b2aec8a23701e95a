"""Perceptual hashes of images, by which copies are found that were resized, compressed anew or touched up.

A difference hash: the image as 9 x 8 grey pixels, a bit for each that is darker than its neighbour on the right.
Source: Krawetz, "Kind of Like That", hackerfactor.com, 2013.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NEAR = 5  # bits of 64 in which copies differ at most
WIDTH, HEIGHT = 9, 8
BLOCK = 2**22  # pairs that are compared at once
MOST = 2**30  # pairs above which only equal hashes are looked for


def difference_hash(image_HW3: NDArray[np.uint8]) -> int:
    """Return the 64 bits of an image, RGB."""
    grey = Image.fromarray(image_HW3).convert("L")
    grey_89 = np.asarray(grey.resize((WIDTH, HEIGHT), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(grey_89[:, :-1] < grey_89[:, 1:]).tobytes(), "big")


def near_pairs(first: Sequence[int], second: Sequence[int], most: int = NEAR) -> list[tuple[int, int]]:
    """Return positions of hashes that differ in at most `most` bits, one of each list.

    >>> near_pairs([0b1111, 0], [0b0111, 2**63 - 1])
    [(0, 0), (1, 0)]
    """
    if not first or not second:
        return []
    if len(first) * len(second) > MOST:
        most = 0
    a_N, b_M = (np.array(hashes, np.uint64) for hashes in (first, second))
    rows = max(1, BLOCK // len(b_M))
    found = []
    for start in range(0, len(a_N), rows):
        distance_nM = np.bitwise_count(a_N[start : start + rows, None] ^ b_M)
        found += [(start + i, j) for i, j in np.argwhere(distance_nM <= most).tolist()]
    return found


def near_copies(first: Any, second: Any) -> list[tuple[str, str]]:
    """Return the names of images that are nearly the same, one of each split; the same name is no copy."""
    a, b = (_by_name(data) for data in (first, second))
    names = [(list(a)[i], list(b)[j]) for i, j in near_pairs(list(a.values()), list(b.values()))]
    return [(one, other) for one, other in names if one != other]


def _by_name(data: Any) -> dict[str, int]:
    """Return the hashes of a split's images; an index that an older version made has none."""
    known = {data.name(index): data.hash(index) for index in range(len(data))}
    return {name: number for name, number in known.items() if number is not None}


def write_hash(number: int | None) -> dict[str, str]:
    """Return what an index says of an image's hash.

    >>> write_hash(255), write_hash(None)
    ({'hash': '00000000000000ff'}, {})
    """
    return {} if number is None else {"hash": f"{number:016x}"}


def read_hashes(images: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Return the hashes of an index by position; an older version made indices without."""
    return {position: int(image["hash"], 16) for position, image in enumerate(images) if "hash" in image}
