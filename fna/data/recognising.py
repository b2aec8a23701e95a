"""``data.format: auto``: which of a task's formats a folder has, by what lies in it; and to say so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from fna.config import DataConfig
from fna.errors import FnaError
from fna.progress import say

Settings = TypeVar("Settings", bound=DataConfig)
AUTO = "auto"
SHOWN = 8  # names of a folder that a message shows


def auto_layout(formats: Mapping[str, Any]) -> str:
    """Return the layout of the format `AUTO`: the others by name."""
    names = ", ".join(name for name, reader in formats.items() if reader.mark is not None)
    return f"  ROOT/...   recognised by what lies there: {names}; `fna list formats` shows each"


def recognise(config: Settings, root: Path, formats: Mapping[str, Any], *, aloud: bool = False) -> Settings:
    """Return the settings with the format that a folder has, if they leave that open.

    Args:
        config: the settings.
        root: the data set's folder.
        formats: the readers of the task.
        aloud: say what it was taken for.

    Raises:
        FnaError: it has none, or may be of several.
    """
    if config.format != AUTO:
        return config
    marks = {name: reader.mark(root, config) for name, reader in formats.items() if reader.mark is not None}
    found = {name: mark for name, mark in marks.items() if mark}
    if not found:
        raise FnaError(
            f"no data set is recognised in {root}, which has {inside(root)}; give its format with --data.format; "
            f"expected\n{auto_layout(formats)}"
        )
    certain = {name: mark for name, mark in found.items() if not mark.startswith("maybe ")} or found
    if len(certain) > 1:
        ways = "; ".join(f"--data.format {name} ({mark.removeprefix('maybe ')})" for name, mark in certain.items())
        raise FnaError(f"{root} may be read in {len(certain)} ways; type one of: {ways}")
    name, mark = next(iter(certain.items()))
    if aloud:
        say(f"data: {root} is read as format '{name}': it has {mark.removeprefix('maybe ')}")
    return config.model_copy(update={"format": name})


def inside(root: Path) -> str:
    """Return some names of what is in a folder, for messages."""
    try:
        names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    except OSError:
        return "nothing that can be read"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(ascii(name)[1:-1] for name in names[:SHOWN]) + more) or "nothing"
