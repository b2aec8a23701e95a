"""What is settled of a run before torch is loaded: its settings and its data, so that mistakes show at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fna.config import Config, dump_yaml, load_config, make_config, merge, refuse_code
from fna.data.index import index_file, open_splits
from fna.errors import FnaError, quoted
from fna.files import TEMPORARY, os_errors
from fna.progress import say
from fna.runs.folder import Folder
from fna.runs.manifest import MANIFEST, read_checked, read_manifest, seed_folders

# Keys that may differ from the folder's config.yaml: they do not change what a finished stage computed.
FREE = (
    *("adapt.", "derive.", "evaluate.", "baseline", "search.latency_table"),
    *("data.root", "data.test", "data.cache_gb", "data.allow_change", "data.allow_outside"),
    *("engine.device", "engine.threads", "engine.workers", "engine.strict", "engine.log", "engine.checkpoint_"),
)
Jobs = Mapping[int, tuple[Path, Config]]  # run folder and settings by RNG seed
OVER_ALL = ("controls.json", "report.html")  # of several RNG seeds, beside their run folders
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
                raise FnaError(
                    f"{path} holds no config.yaml of a run; start one with: fna run RECIPE --run {quoted(path)}"
                )
            return load_config(file, overrides)
        if file.exists():
            read_checked(path, file.name)
        refuse_code(settings, overrides, str(path))
        return make_config(merge(settings, overrides), str(file), overrides)
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


def open_jobs(folder: Path, config: Config, rng_seeds: int | None) -> Jobs:
    """Return where to do a run, or runs of several RNG seeds below a folder.

    Args:
        folder: of the run; of several the folder of their folders: missing, empty, or with such runs.
        config: the settings.
        rng_seeds: how many there are to be: 0, 1 ...; None: one run with the settings' own.

    Raises:
        FnaError: the folder is a run itself or holds something else, or the settings name an RNG seed.
    """
    if rng_seeds is None:
        return {config.engine.rng_seed: (folder, config)}
    if config.engine.rng_seed:
        raise FnaError(
            f"engine.rng_seed is {config.engine.rng_seed}, but --rng-seeds {rng_seeds} does 0 to {rng_seeds - 1}; "
            "leave one of them out"
        )
    if (folder / MANIFEST).exists():
        raise FnaError(
            f"{folder} is the run of one RNG seed; --rng-seeds needs a folder for several: give another one, e.g. "
            f"--run {quoted(f'{folder}_seeds')}"
        )
    with os_errors("open", folder):
        names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    paths = seed_folders(folder, rng_seeds)
    known = (*OVER_ALL, *(path.name for path in (*seed_folders(folder).values(), *paths.values())))
    if foreign := [name for name in sorted(names) if name not in known and not TEMPORARY.fullmatch(name)]:
        raise FnaError(f"{folder} is no folder of runs of fna: it has {foreign[0]}; give a new or empty one with --run")
    engines = {k: config.engine.model_copy(update={"rng_seed": k}) for k in range(rng_seeds)}
    return {k: (paths[k], config.model_copy(update={"engine": engine})) for k, engine in engines.items()}


def reopen_jobs(folder: Path, overrides: Sequence[str]) -> Jobs:
    """Return the run that a folder is, or the runs of several RNG seeds that it holds, with their own settings.

    Raises:
        FnaError: it is neither, or the overrides are wrong.
    """
    paths = seed_folders(folder)
    if not paths:
        config = settle_config(folder, None, overrides)
        return {config.engine.rng_seed: (folder, config)}
    return {k: (path, settle_config(path, None, overrides)) for k, path in paths.items()}


def refuse_started(path: Path, stage: str, config: Config) -> None:
    """Refuse to go on with what has begun, as ``--resume never`` asks.

    Args:
        path: the run folder.
        stage: ``run``, or a stage that goes on: expand, search, derive, adapt.
        config: the settings, which name targets and networks.

    Raises:
        FnaError: something of it is there.
    """
    name = config.adapt.folder
    begun = {
        "run": [path],
        "expand": [path / "super.json"],
        "derive": [path / "targets" / f"{config.derive.name}.json"],
        "search": [path / "search.csv", path / "found.json", path / "checkpoints" / "search"],
        "adapt": [path / name, path / "checkpoints" / name],
    }.get(stage, [])
    with os_errors("read", path):
        there = [entry for entry in begun if (any(entry.iterdir()) if entry.is_dir() else entry.exists())]
    if there:
        other = f"--{stage}.name OTHER" if stage in ("adapt", "derive") else "another folder"
        raise FnaError(f"{there[0]} is there already, and --resume is never: give {other}, or --resume auto to go on")


def check_data(
    path: Path, config: Config, splits: Sequence[str], before: Callable[[Config], object] = lambda config: None
) -> dict[str, Any]:
    """Check the data of a run and keep their indices in its folder, in the first process of a job.

    Args:
        path: the run folder, made if it is missing.
        config: its settings.
        splits: of ``train``, ``val`` and ``test``.
        before: called of a run that is not expanded yet, before its data, if there are any, are read.

    Returns:
        The data by the name of the split, for `run.Run.open`; nothing in other processes, which read the indices.

    Raises:
        FnaError: the folder is foreign or in use, its settings differ, or the data are missing, flawed or changed.
    """
    if os.environ.get("RANK", "0") != "0":
        return {}
    with Folder.open(path) as folder:
        root = config.data.root
        if not folder.finished("expand") and (root is None or Path(root).expanduser().is_dir()):
            before(config)
        keep_config(folder, config)
        return open_indexed(folder, config, [getattr(config.data, split) for split in splits])


def open_indexed(folder: Folder, config: Config, names: Sequence[str]) -> dict[str, Any]:
    """Open splits by name, as a run's writer: check and index them, or compare them with the index of the run's start.

    Raises:
        FnaError: they are missing, flawed or changed, or nothing is left to compare them with.
    """
    indices = [f"data/{index_file(folder.path / 'data', name).name}" for name in names]
    lost = folder.lost(indices)
    if lost and not config.data.allow_change:
        raise FnaError(
            f"{folder.path / lost[0]} is gone, by which the data are known to be those that the run began with: put it "
            "back, or type --data.allow_change true to go on with the data as they are"
        )
    opened = open_splits(config.task.name, config.data, names, folder.path / "data")
    if lost:
        say(f"warning: {', '.join(lost)} was gone: whether the data are those that the run began with is not known")
    folder.expect(name for name in indices if (folder.path / name).exists())
    return opened


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested sections as ``a.b.c`` keys.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat
