"""Freed memory stays with the process while it computes on a CPU.

glibc takes large blocks from the system one by one and hands them back when they are freed. So every map of a network
lies on pages that the system has to find and to clear first. Kept, they are used again: `benchmarks/results/heap.json`
has what that saves, and what memory it costs.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # what mallopt(3) sets
LARGEST = 2**31 - 1  # of its values
KEEP = ((MMAP_MAX, 0), (TRIM_THRESHOLD, LARGEST))
RESTORE = ((MMAP_MAX, 2**16), (MMAP_THRESHOLD, 2**25), (TRIM_THRESHOLD, 2**26))  # as far as glibc goes by itself


@contextmanager
def kept_pages() -> Iterator[None]:
    """Keep what is freed until the context is left. Where another allocator than glibc's serves, nothing happens."""
    library = ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None
    mallopt: Callable[[int, int], int] | None = getattr(library, "mallopt", None)
    if library is None or mallopt is None:
        yield
        return
    for option, value in KEEP:
        mallopt(option, value)
    try:
        yield
    finally:
        for option, value in RESTORE:
            mallopt(option, value)
        library.malloc_trim(0)
