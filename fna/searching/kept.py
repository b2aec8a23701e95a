"""What a choice among candidates has found so far, in a file from which an interrupted one goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fna.errors import FnaError
from fna.files import fingerprint, read_json, write_json
from fna.progress import say
from fna.training import distributed
from fna.training.clock import Spent, Stopwatch
from fna.training.compute import Compute


class Kept:
    """Tables of results, and the time they took.

    A file that is not as it was written is left out, with a word: what it held is found again.

    Args:
        file: where they are kept; None: nowhere.
        compute: the device whose time is counted, and the processes, one of which writes.
        tables: their names.
    """

    def __init__(self, file: Path | None, compute: Compute, *tables: str) -> None:
        self.file, self.compute, self._watch = file, compute, Stopwatch(compute.device.type)
        self.tables: dict[str, dict[str, Any]] = {name: {} for name in tables}
        if file is None or not distributed.first(file.exists()):
            return
        try:
            record = read_json(file)
            seal = record.pop("sha256")
            spent, found = Spent.from_json(record["spent"]), {name: dict(record[name]) for name in tables}
            intact = seal == _seal(spent, found)
        except (AttributeError, KeyError, TypeError, ValueError, FnaError):
            intact = False
        if intact:
            self.tables, self._watch = found, Stopwatch(compute.device.type, spent)
        else:
            say(f"search: {file} is damaged; what it held of the choice is found again")

    @property
    def spent(self) -> Spent:
        """The time so far, that before an interruption included."""
        return self._watch.read()

    def save(self) -> None:
        """Write the file, in the process that does."""
        if self.file is not None and self.compute.world.writes:
            spent = self.spent
            write_json(self.file, {"spent": spent.to_json(), **self.tables, "sha256": _seal(spent, self.tables)})


def _seal(spent: Spent, tables: dict[str, dict[str, Any]]) -> str:
    text = json.dumps([spent.to_json(), tables], sort_keys=True)
    return str(fingerprint(text.encode())["sha256"])
