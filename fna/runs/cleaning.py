"""Freeing a finished run's disk space: networks, scores and reports stay. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fna.errors import FnaError, quoted
from fna.files import os_errors
from fna.runs.folder import Folder

# What only serves to go on: to search, derive or adapt more.
HEAVY = ("checkpoints/**/*", "seed.safetensors", "super.safetensors", "found.safetensors", "targets/*.safetensors")


def find_heavy(path: Path) -> dict[Path, int]:
    """Return the files that `clean` removes, with their bytes.

    Raises:
        FnaError: it is no run folder, or no network of it is finished: there is nothing to keep.
    """
    with Folder.open(path, writer=False) as folder:
        if not any(stage.startswith("adapt:") for stage in folder.stages()):
            raise FnaError(
                f"{path} has no finished network yet: all it holds is needed to go on; type: fna adapt {quoted(path)}"
            )
    with os_errors("read", path):
        found = sorted(file for pattern in HEAVY for file in path.glob(pattern) if file.is_file())
        return {file: file.stat().st_size for file in found}


def clean(path: Path, files: Mapping[Path, int]) -> None:
    """Remove files that `find_heavy` found.

    Raises:
        FnaError: another process is using the folder, or a file cannot be removed.
    """
    with Folder.open(path, create=False):
        for file in files:
            with os_errors("remove", file):
                file.unlink(missing_ok=True)
