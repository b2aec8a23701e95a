"""Training and validation data together. Placeholder of the lead until the index lands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fna.config import Config


@dataclass(frozen=True)
class Splits:
    """The data a network learns from and is scored on; each may be anything that does what `tasks.Data` says."""

    train: Any
    val: Any


def open_data(config: Config) -> Splits:
    """Open and check the training and the validation split."""
    return Splits(**open_splits(config, ("train", "val"), None))


def open_splits(config: Config, splits: Sequence[str], folder: Path | None, writes: bool = True) -> dict[str, Any]:
    """Open splits."""
    read = import_module(f"fna.tasks.{config.task.name}").TASK.open_data
    return {split: read(config.data, getattr(config.data, split)) for split in splits}
