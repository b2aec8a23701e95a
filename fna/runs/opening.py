"""What is settled of a run before torch is loaded: its settings and its data, so that mistakes show at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fna.config import Config, dump_yaml, load_config, make_config, merge
from fna.data.index import open_splits
from fna.errors import FnaError
from fna.runs.folder import Folder
from fna.runs.manifest import MANIFEST, read_checked, read_manifest

# Keys that may differ from the folder's config.yaml: they do not change what a finished stage computed.
FREE = (
    *("adapt.", "derive.", "evaluate.", "baseline"),
    *("data.root", "data.test", "data.cache_gb", "data.allow_change", "data.allow_outside"),
    *("engine.device", "engine.threads", "engine.workers", "engine.strict", "engine.checkpoint_"),
)
NEEDS = {  # the splits a stage opens
    "expand": ("val", "train"),
    "search": ("train",),
    "adapt": ("train", "val"),
    "evaluate": ("val",),
}


def settle_config(path: Path, config: Config | None, overrides: Sequence[str]) -> Config:
    """Return the settings of a run: those given, or the folder's own, with overrides.

    Raises:
        FnaError: none are given and the folder has none, or they are wrong.
    """
    if config is None:
        file = path / "config.yaml"
        settings = read_manifest(path)["settings"] if (path / MANIFEST).exists() else None
        if settings is None:
            if not file.exists():
                raise FnaError(f"{path} holds no config.yaml of a run; start one with: fna run RECIPE --run {path}")
            return load_config(file, overrides)
        if file.exists():
            read_checked(path, file.name)
        return make_config(merge(settings, overrides), str(file))
    if overrides:
        return make_config(merge(config.model_dump(mode="json", by_alias=True), overrides))
    return config


def keep_config(folder: Folder, config: Config) -> None:
    """Write config.yaml and record the settings, or refuse a change that finished stages do not allow.

    Raises:
        FnaError: naming the first change, and what to do; or config.yaml is not as it was left.
    """
    path = folder.path / "config.yaml"
    new = flatten(config.model_dump(mode="json", by_alias=True))
    began = _began_with(folder)
    if began is not None:
        old = flatten(began.model_dump(mode="json", by_alias=True))
        changed = [key for key in {**old, **new} if new.get(key) != old.get(key) and not key.startswith(FREE)]
        started = folder.finished("expand") or (folder.path / "checkpoints").exists()
        if changed and started:
            key = changed[0]
            raise FnaError(
                f"{folder.path} was started with {key} = {old.get(key)}, now it is {new.get(key)}"
                f"{f' (and {len(changed) - 1} more changes)' if len(changed) > 1 else ''}; "
                "give the same settings to go on, or another folder with --run"
            )
        if not changed:
            config = began  # what is free to differ may do so once, without a trace
            if folder.settings is not None and path.exists() and folder.read(path.name).decode() == dump_yaml(config):
                return
    folder.keep(path.name, dump_yaml(config), settings=config.model_dump(mode="json", by_alias=True))


def _began_with(folder: Folder) -> Config | None:
    """Return the settings that a run has so far, those that its version of fna did not have at their defaults."""
    path = folder.path / "config.yaml"
    content = folder.read(path.name) if path.exists() else None
    if folder.settings is not None:
        return make_config(folder.settings, str(path))
    return None if content is None else load_config(path)


def check_data(path: Path, config: Config, splits: Sequence[str]) -> dict[str, Any]:
    """Check the data of a run and keep their indices in its folder, in the first process of a job.

    Args:
        path: the run folder, made if it is missing.
        config: its settings.
        splits: of ``train``, ``val`` and ``test``.

    Returns:
        The data by the name of the split, for `run.Run.open`; nothing in other processes, which read the indices.

    Raises:
        FnaError: the folder is foreign or in use, its settings differ, or the data are missing, flawed or changed.
    """
    if os.environ.get("RANK", "0") != "0":
        return {}
    with Folder.open(path) as folder:
        keep_config(folder, config)
        names = [getattr(config.data, split) for split in splits]
        return open_splits(config.task.name, config.data, names, path / "data")


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested sections as ``a.b.c`` keys.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat
