"""The one error users see, and what its messages are made of."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class FnaError(Exception):
    """A mistake the user can mend: the message says what was given, what was expected and what to type next.

    The command line prints it without a traceback and exits with code 2.
    """

    reported_here: bool | None = None  # among several processes, one reports it; None: they have not settled which


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is one of memory: Python's, CUDA's, or the RuntimeError of torch's CPU allocator."""
    said = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(text in str(error) for text in said)
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name closest to `name`, or an empty string.

    >>> nearest("serach", ["search", "adapt"])
    " (did you mean 'search'?)"
    """
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{matches[0]}'?)" if matches else ""


def pick(table: Mapping[str, T], name: str, what: str) -> T:
    """Look `name` up in `table`; an unknown name is an `FnaError` that lists the options."""
    if name not in table:
        raise FnaError(f"unknown {what} '{name}'{nearest(name, table)}; known: {', '.join(sorted(table))}")
    return table[name]


def quoted(path: object) -> str:
    """Return a path, or anything else, as one word of a command to paste.

    >>> print(quoted("runs/leaves"), quoted("runs/my leaves"))
    runs/leaves 'runs/my leaves'
    """
    return shlex.quote(str(path))


def printable(name: str) -> str:
    """Return a name as one line that any terminal can show."""
    return name if name.isprintable() else ascii(name)


def short(value: Any) -> str:
    """Return a value from a file, shortened, as one line that any terminal can show."""
    text = printable(value) if isinstance(value, str) and value else ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
