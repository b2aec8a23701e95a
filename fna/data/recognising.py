"""Formats by name, and by what lies in a folder (``data.format: auto``); those of other tasks are told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from fna.config import MODELS, TASKS, DataConfig
from fna.errors import FnaError, pick, printable
from fna.progress import say

Settings = TypeVar("Settings", bound=DataConfig)
AnyReader = TypeVar("AnyReader")
AUTO = "auto"
SHOWN = 8  # names of a folder that a message shows


def find_package(task: str) -> ModuleType:
    """Return where the data of a task are read: a module with `FORMATS` and `open_data`.

    Raises:
        FnaError: there is no such task.
    """
    pick(TASKS, task, "task")
    return import_module(f"fna.data.{task}")


def pick_reader(formats: Mapping[str, AnyReader], name: str, task: str) -> AnyReader:
    """Return the reader of a format.

    Args:
        formats: the readers of the task.
        name: of the format.
        task: for messages.

    Raises:
        FnaError: there is no such format, or it is another task's: the message says which models are for it.
    """
    if name in formats:
        return formats[name]
    owners = [other for other, table in _other_tasks(formats).items() if name in table]
    if owners:
        raise FnaError(
            f"data format '{name}' is of {' and '.join(owners)}, not of {task}, whose formats are "
            f"{', '.join(sorted(formats))}; {_models(owners)}"
        )
    return pick(formats, name, f"data format of {task}")


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
    found = find_marks(config, root, formats)
    if not found:
        others = {task: find_marks(config, root, table) for task, table in _other_tasks(formats).items()}
        if any(others.values()):
            looks = [f"'{name}' of {task}" for task, marks in others.items() for name in marks]
            raise FnaError(
                f"{root} looks like data of another task, {' or '.join(looks)}, and has {inside(root)}; "
                f"{_models(task for task, marks in others.items() if marks)}"
            )
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


def find_marks(config: DataConfig, root: Path, formats: Mapping[str, Any]) -> dict[str, str]:
    """Return the formats that a folder may be of, and by what they are recognised."""
    marks = {name: reader.mark(root, config) for name, reader in formats.items() if reader.mark is not None}
    return {name: mark for name, mark in marks.items() if mark}


def _other_tasks(formats: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    tables = {task: find_package(task).FORMATS for task in TASKS}
    return {task: table for task, table in tables.items() if table is not formats}


def _models(tasks: Iterable[str]) -> str:
    """Return what to type for other tasks than the model's."""
    ways = " or ".join(f"--task.model {'|'.join(TASKS[task])} ({task})" for task in tasks)
    return f"the task is that of task.model, {next(iter(MODELS))} where none is given: type {ways}"


def inside(root: Path) -> str:
    """Return some names of what is in a folder, for messages."""
    try:
        names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    except OSError:
        return "nothing that can be read"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(printable(name) for name in names[:SHOWN]) + more) or "nothing"
