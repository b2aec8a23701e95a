"""Training and validation data together. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fna.config import Config
from fna.data.index import open_splits


@dataclass(frozen=True)
class Splits:
    """The data a network learns from and is scored on; each may be anything that does what `tasks.Data` says."""

    train: Any
    val: Any


def open_data(config: Config) -> Splits:
    """Open and check the training and the validation split.

    Raises:
        FnaError: the data are missing or have flaws, all of them listed, or the splits have different classes.
    """
    names = config.data.train, config.data.val
    opened = open_splits(config.task.name, config.data, names)
    return Splits(*(opened[name] for name in names))
