"""What sections of the report are made of: parts, tables, and how files and numbers become text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fna.config import Config, load_config
from fna.errors import FnaError
from fna.files import decode_json
from fna.reporting import figures
from fna.runs.manifest import read_vouched
from fna.training.sinks import parse_log

DASH, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
NARROW = 6  # inches: two figures below this width stand beside each other
# How reading a damaged or foreign file can fail; the rest of the page is still of use.
DAMAGES = (FnaError, OSError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Table:
    """Text in rows.

    Args:
        caption: says what to look for.
        head: titles of the columns; all empty: none.
        rows: cells.
        words: so many columns, from the left, hold words; the others numbers.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


@dataclass
class Part:
    """What a section shows.

    Args:
        warnings: sentences not to be missed.
        tiles: (label, value, remark) of the few numbers that matter most.
        key: (CSS colour, meaning).
        drawings: (svg, caption, whether two fit beside each other).
        columns: titles over the pictures.
        pictures: rows of data URIs; an empty one is a gap.
        tables: tables.
        notes: sentences.
        text: preformatted text.
        folded: (what it is, more of it), shown on demand.
    """

    warnings: list[str] = field(default_factory=list)
    tiles: list[tuple[str, str, str]] = field(default_factory=list)
    key: list[tuple[str, str]] = field(default_factory=list)
    drawings: list[tuple[str, str, bool]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    pictures: list[list[str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    text: str = ""
    folded: tuple[str, str] | None = None

    def draw(self, figure: Figure, caption: str) -> None:
        """Add a figure; the caption says what to look for."""
        self.drawings.append((figures.to_svg(figure), caption, figure.get_figwidth() < NARROW))

    def read_columns(self, folder: Path, name: str) -> dict[str, figures.Series]:
        """Read a log as columns of numbers, NaN where a cell is empty; note what a kill has torn."""
        text = read_vouched(folder / name).decode(errors="replace")
        rows = parse_log(text)
        if not rows:
            raise FnaError(f"{name} has no whole row yet")
        lines = sum(bool(line.strip()) for line in text.splitlines())
        if torn := lines - 1 - len(rows):
            self.notes.append(f"{torn} torn line{'s' * (torn > 1)} of {name} left out (a write cut short).")
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}


def read_config(folder: Path) -> Config | None:
    """Read the run's configuration, if it is there."""
    path = folder / "config.yaml"
    if not path.exists():
        return None
    read_vouched(path)
    return load_config(path)


def task_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the run's section task, none if they are not there."""
    config = read_config(folder)
    return config.task.model_dump() if config else {}


def read_json(path: Path) -> Any:
    """Read a JSON file of a run, if it is as the run left it."""
    return decode_json(path, read_vouched(path))


def read_optional(path: Path) -> Any:
    """Read a JSON file of a run, or return None where there is none."""
    return read_json(path) if path.exists() else None


def unusable(what: str, error: Exception, command: str) -> str:
    """Say that a file is damaged, why, and which command makes it again."""
    why = str(error) if isinstance(error, FnaError) else f"{type(error).__name__}: {error}"
    return f"{what} cannot be used: {why}. To make it again, type: {command}"


def signed(value: float, digits: int = 2) -> str:
    """Write a difference with its sign, unless it rounds to zero.

    >>> signed(1.234), signed(-0.004)
    ('+1.23', '0.00')
    """
    text = f"{abs(value):.{digits}f}"
    return text if not float(text) else ("+" if value > 0 else MINUS) + text
