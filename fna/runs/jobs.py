"""Independent jobs, each in a run folder of its own: sharing them out, and beginning with another's super network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from fna.config import AdaptConfig, Config, make_config
from fna.errors import FnaError
from fna.files import link, os_errors
from fna.progress import say
from fna.runs import pipeline
from fna.runs.controls import scored
from fna.runs.folder import Folder
from fna.runs.opening import FREE, flatten, keep_config
from fna.runs.run import Run

T = TypeVar("T")
OWN = (*FREE, "remap.")  # settings in which a run may differ from the one whose super network it takes


def share_of(jobs: Sequence[T], array: str | None) -> list[T]:
    """Return the jobs of one process of several.

    Args:
        jobs: all of them.
        array: ``K/N``, the K-th of N processes, from 1; None: there is one.

    >>> share_of(["a", "b", "c"], "1/2"), share_of(["a", "b", "c"], "2/2")
    (['a', 'c'], ['b'])

    Raises:
        FnaError: it is no such pair, or torchrun has started several processes.
    """
    if array is None:
        return list(jobs)
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", array)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise FnaError(f"--job-array is '{array}'; expected K/N, the K-th of N processes, such as 1/4")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise FnaError("--job-array is for processes that know nothing of each other; leave it out under torchrun")
    return list(jobs)[int(found[1]) - 1 :: int(found[2])]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from a job, after waiting for one that is at it; the lock of one that is killed is free.

    Raises:
        FnaError: torchrun has started several processes, which would wait for each other.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise FnaError(
            "a job of a study or a front is for one process: leave out torchrun, and share the jobs out over as many "
            "processes as you like with --job-array K/N"
        )
    lock_file = folder.with_name(f".{folder.name}.lock")
    with os_errors("open", folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_file, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            say(f"{folder}: another process is at it; waiting")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def share_network(source: Path, folder: Path, config: Config) -> None:
    """Let a run begin with the trained super network of another; a run that has begun so stays as it is.

    Args:
        source: folder of the run that expanded and searched.
        folder: of the run that shall derive and adapt, made if it is missing.
        config: its settings: those of the source but for what comes after the search, and how weights are remapped.

    Raises:
        FnaError: the source is not finished, or differs in more.
    """
    giver = Folder.open(source, writer=False)
    began = make_config(giver.settings or {}, str(source))  # with what its version did not have at the default
    given, wanted = (flatten(one.model_dump(mode="json", by_alias=True)) for one in (began, config))
    if changed := [key for key in wanted if given.get(key) != wanted[key] and not key.startswith(OWN)]:
        key = changed[0]
        raise FnaError(
            f"{folder} cannot take the super network of {source}: that was trained with {key} = {given.get(key)}, here "
            f"it is {wanted[key]}; search anew, in a run of its own"
        )
    with Folder.open(folder) as taker:
        keep_config(taker, config)
        for stage in ("expand", "search"):
            if not taker.finished(stage):
                taker.adopt(stage, giver)
        for index in (source / "data").glob("*.json"):
            if not (folder / "data" / index.name).exists():
                link(index, folder / "data" / index.name)


def finish(run: Run, adapt: AdaptConfig | None = None) -> dict[str, Any]:
    """Derive, if need be, adapt and score the network that ``adapt`` names.

    Args:
        run: the run.
        adapt: another schedule than the settings'.

    Returns:
        Its row of metrics.json.
    """
    adapt = adapt or run.config.adapt
    for name in ("expand", "search", *(["derive"] if adapt.arch == run.config.derive.name else [])):
        pipeline.stage(run, name)
    pipeline.adapt_one(run, adapt)
    if not scored(run):
        pipeline.stage(run, "evaluate")
    row: dict[str, Any] = run.read_json("metrics.json", "evaluate")["rows"][adapt.folder]
    return row


def with_settings(config: Config, changes: Mapping[str, Any]) -> list[str]:
    """Return changes of settings as ``key=value``; ``2x`` is twice the number that the setting has.

    >>> with_settings(Config(), {"adapt.epochs": "2x", "adapt.init": "seed", "search.budget": "0.5x"})
    ['adapt.epochs=40', 'adapt.init=seed', 'search.budget=0.5x']

    Raises:
        FnaError: what is to be multiplied is no number.
    """
    known = flatten(config.model_dump(mode="json", by_alias=True))
    texts = []
    for key, value in changes.items():
        times = re.fullmatch(r"(\d+(?:\.\d+)?)x", str(value))
        if times and "budget" not in key:
            old = known.get(key)
            if isinstance(old, bool) or not isinstance(old, int | float):
                raise FnaError(f"'{key}: {value}' multiplies {old!r}; expected a setting that is a number")
            value = type(old)(round(old * float(times[1])) if isinstance(old, int) else old * float(times[1]))
        texts.append(f"{key}={'null' if value is None else value}")
    return texts
