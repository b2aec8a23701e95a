"""Regions of a mask, connected pixels of one class: how large the things in it are. No torch here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def regions(ids_HW: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the class and the number of pixels of every region; pixels touch at their sides, not at corners.

    Rows are cut into runs of one class; runs that touch are one region, which is named by the first of them.

    >>> regions(np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]], np.uint8))
    (array([1, 0, 0, 1], dtype=uint8), array([3, 4, 1, 1]))
    """
    begins_HW = np.ones(ids_HW.shape, bool)
    begins_HW[:, 1:] = ids_HW[:, 1:] != ids_HW[:, :-1]
    run_HW = np.cumsum(begins_HW).reshape(ids_HW.shape) - 1
    touch_HW = (ids_HW[1:] == ids_HW[:-1]) & (begins_HW[1:] | begins_HW[:-1])  # where either begins: once for each pair
    above, below = run_HW[:-1][touch_HW], run_HW[1:][touch_HW]
    first_R = np.arange(run_HW[-1, -1] + 1)
    while True:
        low = np.minimum(first_R[above], first_R[below])
        joined_R = first_R.copy()
        for other in (above, below):
            np.minimum.at(joined_R, first_R[other], low)
        joined_R = joined_R[joined_R]
        if (joined_R == first_R).all():
            break
        first_R = joined_R
    pixels_R = np.bincount(first_R, np.bincount(run_HW.reshape(-1)), len(first_R)).astype(np.int64)
    return ids_HW[begins_HW][pixels_R > 0], pixels_R[pixels_R > 0]
