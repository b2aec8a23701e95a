"""Standard input, output and error as shells leave them: closed, full, or with letters that the terminal lacks."""

from __future__ import annotations

import io
import os
import sys
import time
from contextlib import suppress

from fna.errors import FnaError
from fna.progress import first_rank

GRACE_SECONDS = 2  # for another process to report a mistake, before torchrun ends it because this one ended


def open_streams() -> None:
    """Give a closed stream the null device: the next file that is opened would get its number, and our words with it.

    Letters that a stream cannot encode are escaped: names of files need not be UTF-8.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 (open as long as the process)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def flush_output() -> None:
    """Write out what was printed, while its failure can still be reported.

    Raises:
        OSError: the disk is full, or nobody reads any more; what could not be written is given up.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again at its end
        raise


def complain(text: str) -> None:
    """Print a line to standard error, if it takes one."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def refuse_once(error: FnaError) -> int:
    """Report an error of several processes from one of them (before they have met: from the first of each node)."""
    if error.reported_here if error.reported_here is not None else os.environ.get("LOCAL_RANK", "0") == "0":
        return refuse(str(error) + ("" if first_rank() else f" (rank {os.environ['RANK']})"))
    time.sleep(GRACE_SECONDS)
    return 2


def refuse(message: str) -> int:
    """Report a mistake; return the exit code."""
    complain(f"fna: error: {message}")
    return 2
