"""CSV logs that survive a kill: a torn or repeated tail is dropped when the run goes on."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fna.errors import FnaError
from fna.files import fingerprint, no_link, os_errors, read_bytes, write_text
from fna.progress import say


class Log:
    """A CSV file that grows by rows; the first row fixes the columns.

    Args:
        path: the file, or None to write nowhere.
        start: rows whose key is not below this value are dropped: they will be written again.
        key: the column that counts (``step``, ``epoch``).
    """

    def __init__(self, path: Path | None, start: int, key: str) -> None:
        self.path = path
        self.columns: list[str] = []
        if path is None or not path.exists():
            return
        text = _text(path)
        if text[-1:] not in ("", "\n"):
            say(f"{path}: its last line was torn by an interruption and is dropped")
        rows = parse_log(text)
        kept = [row for row in rows if int(row[key]) < start]
        if kept:
            self.columns = list(kept[0])
            text = _line(self.columns) + "".join(_line([row[c] for c in self.columns]) for row in kept)
            write_text(path, text)
        else:
            path.unlink()

    def fingerprint(self) -> dict[str, Any] | None:
        """Return SHA-256 and size of the file as it is, for a checkpoint to know; None: there is none."""
        if self.path is None or not self.path.exists():
            return None
        return fingerprint(read_bytes(self.path))

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row.

        Raises:
            FnaError: the disk is full, or the file's folder is gone.
        """
        if self.path is None:
            return
        text = ""
        if not self.columns:
            with os_errors("write", self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self.columns = list(row)
            text = _line(self.columns)
        values = [
            "" if row[c] is None else f"{row[c]:.6g}" if isinstance(row[c], float) else row[c] for c in self.columns
        ]
        with os_errors("write", self.path), open(self.path, "a", encoding="utf-8", opener=no_link) as file:
            file.write(text + _line(values))


def check_log(path: Path, recorded: Mapping[str, Any], step: int) -> None:
    """Refuse to go on with a log whose beginning is not as it was when a checkpoint was written.

    Args:
        path: the log; one that is gone is said, and begins again.
        recorded: `Log.fingerprint` of then.
        step: of the checkpoint.

    Raises:
        FnaError: other rows are there than were written.
    """
    if not path.exists():
        say(f"{path} is gone; it begins again at iteration {step}")
    elif fingerprint(read_bytes(path)[: recorded["bytes"]]) != dict(recorded):
        raise FnaError(
            f"{path} is not as it was when the checkpoint of iteration {step} was written: put the intact file "
            "back, or delete it, and it begins again there"
        )


def read_log(path: Path) -> list[dict[str, str]]:
    """Read the whole rows of a log; a torn last line is left out."""
    return parse_log(_text(path))


def parse_log(text: str) -> list[dict[str, str]]:
    """Return the whole rows of a log's text; a torn last line is left out."""
    text = text[: text.rfind("\n") + 1]
    rows = list(csv.DictReader(io.StringIO(text)))
    return [row for row in rows if None not in row and None not in row.values()]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _line(values: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()
