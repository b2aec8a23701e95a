"""Progress bars and messages for people: on stderr, from rank 0 only, so that stdout stays clean for machines.

Without a terminal plain lines take the bars' place: at each stage's start and each epoch's end, and one a minute.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
_SHOWN: ContextVar[Progress | None] = ContextVar("shown", default=None)
_TOLD: ContextVar[float] = ContextVar("told", default=0.0)  # when the last plain line was printed
EVERY_SECONDS = 60  # a bar that nobody sees prints a line


@contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """Silence `say` and `bar` inside the block (``--quiet``, ``--json``)."""
    token = _QUIET.set(on)
    try:
        yield
    finally:
        _QUIET.reset(token)


def say(text: str) -> None:
    """Print a line to stderr: on rank 0, unless `quiet`. Bars stay below it."""
    if _speaks():
        with suppress(OSError):  # its disk is full, or its terminal gone
            print(text, file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """Print a line in a bar's place: to stderr where it is no terminal, unless `quiet`."""
    if _speaks() and not sys.stderr.isatty():
        say(text)
        _TOLD.set(time.monotonic())


def shortly(minutes: float) -> str:
    """Write a time for people.

    >>> shortly(0.4), shortly(3.26), shortly(150)
    ('24 s', '3.3 min', '2.5 h')
    """
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


@dataclass
class Bar:
    """A running progress bar; without a terminal it prints a line a minute."""

    label: str
    _progress: Progress | None = None
    _task: TaskID | None = None
    total: int = 0
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    before: int = 0  # done before it began

    def advance(self, n: int = 1, **numbers: float) -> None:
        """Move on by `n` and show the latest `numbers` (``loss=0.71``) beside the bar."""
        self.done += n
        if self._progress is None or self._task is None:
            now = time.monotonic()
            if now - max(self.began, _TOLD.get()) >= EVERY_SECONDS and self.done > self.before:
                left = (now - self.began) / (self.done - self.before) * (self.total - self.done)
                shown = "".join(f", {name} {value:.4g}" for name, value in numbers.items())
                tell(f"{self.label}: {self.done} of {self.total}{shown}, ETA {shortly(left / 60)}")
            return
        if numbers:
            note = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            self._progress.update(self._task, advance=n, note=note)
        else:
            self._progress.update(self._task, advance=n)


@contextmanager
def bar(total: int, label: str, start: int = 0) -> Iterator[Bar]:
    """Show a bar with speed and ETA while the block runs; a line a minute when stderr is no terminal.

    A bar inside another one appears below it. The ETA counts from `start`, so it is right for a resumed stage.

    Args:
        total: number of units (steps, images).
        label: what is being done.
        start: units done before.
    """
    if not (_speaks() and sys.stderr.isatty()):
        yield Bar(label, total=total, done=start, before=start)
        return
    outer = _SHOWN.get()
    if outer is not None:
        task = outer.add_task(label, total=total, completed=start, note="")
        try:
            yield Bar(label, outer, task)
        finally:
            outer.remove_task(task)
        return
    with _display() as progress:
        token = _SHOWN.set(progress)
        try:
            yield Bar(label, progress, progress.add_task(label, total=total, completed=start, note=""))
        finally:
            _SHOWN.reset(token)


def first_rank() -> bool:
    """Tell whether this process speaks for its job: under torchrun only rank 0 does."""
    return os.environ.get("RANK", "0") == "0"


def _speaks() -> bool:
    return not _QUIET.get() and first_rank()


def _display() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        speed_estimate_period=300,  # steps can take seconds: rich's 30 s would hold too few of them
        redirect_stdout=False,
    )
