"""Progress bars and messages for people: on stderr, from rank 0 only, so that stdout stays clean for machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
_SHOWN: ContextVar[Progress | None] = ContextVar("shown", default=None)


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
        print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Bar:
    """A running progress bar; without a terminal it counts for nobody."""

    label: str
    _progress: Progress | None = None
    _task: TaskID | None = None

    def advance(self, n: int = 1, **numbers: float) -> None:
        """Move on by `n` and show the latest `numbers` (``loss=0.71``) beside the bar."""
        if self._progress is None or self._task is None:
            return
        if numbers:
            note = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            self._progress.update(self._task, advance=n, note=note)
        else:
            self._progress.update(self._task, advance=n)


@contextmanager
def bar(total: int, label: str, start: int = 0) -> Iterator[Bar]:
    """Show a bar with speed and ETA while the block runs; silent when stderr is no terminal.

    A bar inside another one appears below it. The ETA counts from `start`, so it is right for a resumed stage.

    Args:
        total: number of units (steps, images).
        label: what is being done.
        start: units done before.
    """
    if not (_speaks() and sys.stderr.isatty()):
        yield Bar(label)
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
