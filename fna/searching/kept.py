"""What a choice among candidates has found so far, in a file from which an interrupted one goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fna.errors import FnaError
from fna.files import fingerprint, read_json, write_json
from fna.progress import say
from fna.training import distributed


class Kept:
    """Tables of results, and the minutes they took.

    A file that is not as it was written is left out, with a word: what it held is found again.

    Args:
        file: where they are kept; None: nowhere.
        writes: whether this process writes it.
        tables: their names.
    """

    def __init__(self, file: Path | None, writes: bool, *tables: str) -> None:
        self.file, self.writes, self.began = file, writes, time.monotonic()
        self.tables: dict[str, dict[str, Any]] = {name: {} for name in tables}
        if file is None or not distributed.first(file.exists()):
            return
        try:
            record = read_json(file)
            seal = record.pop("sha256")
            minutes, found = float(record.pop("minutes")), {name: dict(record[name]) for name in tables}
            intact = seal == _seal(minutes, found)
        except (AttributeError, KeyError, TypeError, ValueError, FnaError):
            intact = False
        if intact:
            self.tables, self.began = found, self.began - 60 * minutes
        else:
            say(f"search: {file} is damaged; what it held of the choice is found again")

    @property
    def minutes(self) -> float:
        """Minutes so far, those before an interruption included."""
        return (time.monotonic() - self.began) / 60

    def save(self) -> None:
        """Write the file, in the process that does."""
        if self.file is not None and self.writes:
            minutes = self.minutes
            write_json(self.file, {"minutes": minutes, **self.tables, "sha256": _seal(minutes, self.tables)})


def _seal(minutes: float, tables: dict[str, dict[str, Any]]) -> str:
    text = json.dumps([minutes, tables], sort_keys=True)
    return str(fingerprint(text.encode())["sha256"])
