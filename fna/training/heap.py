"""Freed memory stays with the process while it computes on a CPU.

glibc takes large blocks from the system one by one and hands them back when they are freed. So every map of a network
lies on pages that the system has to find and to clear first. Kept, they are used again: `benchmarks/results/heap.json`
has what that saves, and what memory it costs.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # what mallopt(3) sets
KEEP = ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1))
RESTORE = ((MMAP_MAX, 2**16), (MMAP_THRESHOLD, 2**25), (TRIM_THRESHOLD, 2**26))  # as far as glibc goes by itself

_lock, _inside = Lock(), 0


@contextmanager
def kept_pages() -> Iterator[None]:
    """Keep what is freed until the last context is left.

    It holds for blocks of the process's first thread, and for processes that are forked from it. Settings of glibc's
    that were made in the environment are not restored. Without glibc nothing happens, and nothing changes where another
    allocator takes its place.
    """
    _enter(1, KEEP)
    try:
        yield
    finally:
        if _enter(-1, RESTORE):
            hand_back()


def hand_back() -> None:
    """Let the system have what is free now."""
    if library := _glibc():
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None


def _enter(by: int, options: tuple[tuple[int, int], ...]) -> bool:
    """Count who is inside; set the options when the first comes, or the last leaves. Return whether that was so."""
    global _inside
    with _lock:
        outer, _inside = _inside == 0 or _inside + by == 0, _inside + by
        if outer and (library := _glibc()):
            for option, value in options:
                library.mallopt(option, value)
        return outer
