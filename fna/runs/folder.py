"""The run folder: plain files, a manifest that says which stages are finished, and a lock. No torch at import."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from fna import files
from fna.errors import FnaError, nearest
from fna.files import TEMPORARY, fingerprint, os_errors, read_bytes, read_json, remove, temporaries

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
LOCK = ".lock"
FORMAT = 2  # of the manifest and the folder's layout
WROTE = {1: "0.1"}  # versions of fna that wrote other formats
SEED_FOLDER = re.compile(r"seed_(\d{1,9})")  # the run of an RNG seed, among several
NAMED = {  # stages that are done under several names: what such a name stands for, and the option that gives it
    "derive": ("target", "--derive.name"),
    "adapt": ("adaptation", "--adapt.name"),
    "evaluate": ("evaluation", "--split"),
}


class Folder:
    """A run's folder: plain files, and a manifest that says which stages are finished.

    ```
    with Folder.open(Path("runs/camvid")) as folder:
        folder.write_json("targets/half.json", arch.to_json())
        folder.commit("derive:half", ["targets/half.json"])
        folder.read_json("derive:half", "targets/half.json")
    ```
    """

    def __init__(self, path: Path, lock: FileLock | None) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, create: bool = True, writer: bool = True) -> Self:
        """Open a run folder.

        Args:
            path: the folder.
            create: make it if it is missing (writers only).
            writer: take the folder for this `Folder` alone until `close`. A reader needs no lock, works beside a writer
                and in a folder that cannot be written, and changes nothing.

        Raises:
            FnaError: the folder is missing, is a file, cannot be written, is not ours, or is in use.
        """
        with os_errors("open", path):
            if path.exists() and not path.is_dir():
                raise FnaError(f"{path} is a file; --run takes a folder")
            if not path.exists() and not (create and writer):
                raise FnaError(f"there is no run folder {path}; start one with: fna run RECIPE --run {path}")
            if not writer:
                _check_ours(path)
                return cls(path, None)
            path.mkdir(parents=True, exist_ok=True)
            _check_ours(path, or_empty=create)
            folder = cls(path, _take_lock(path))
        try:
            with os_errors("open", path):
                remove(temporaries(path))
                if not (path / MANIFEST).exists():
                    folder._write_stages({})
        except FnaError:
            folder.close()
            raise
        return folder

    def close(self) -> None:
        """Give the folder free for other processes."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, name: str, content: Any) -> None:
        """Write a file of the run by the type of its content: a state dict, bytes, text, or what JSON can hold."""
        if name.endswith(".safetensors"):
            self.write_state(name, *content) if isinstance(content, tuple) else self.write_state(name, content)
        elif isinstance(content, bytes):
            self.write_bytes(name, content)
        elif isinstance(content, str):
            self.write_text(name, content)
        else:
            self.write_json(name, content)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file of the run; a stage it was a result of is no longer finished."""
        files.write_bytes(self._claim(name), data)

    def write_text(self, name: str, text: str) -> None:
        """Write a UTF-8 text file of the run; see `Folder.write_bytes`."""
        files.write_text(self._claim(name), text)

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file of the run; see `Folder.write_bytes`."""
        files.write_json(self._claim(name), data)

    def write_state(self, name: str, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
        """Write a safetensors file of the run; see `Folder.write_bytes`."""
        files.write_state(self._claim(name), state, metadata)

    def commit(self, stage: str, files: Iterable[str], info: Mapping[str, Any] | None = None) -> None:
        """Record that `stage` is finished and which files are its result.

        Args:
            stage: its name.
            files: names in the folder, already written.
            info: what else the record shall say, JSON-ready.
        """
        entry = {"files": {name: fingerprint(read_bytes(self.path / name)) for name in files}, "info": info or {}}
        self._write_stages({**self._stages(), stage: entry})

    def forget(self, stage: str) -> None:
        """Record that `stage` is to be done again; its files stay."""
        stages = self._stages()
        if stages.pop(stage, None) is not None:
            self._write_stages(stages)

    def finished(self, stage: str) -> bool:
        """Tell whether `stage` is finished and its files are there; their content is verified when they are read.

        Raises:
            FnaError: a file has not the size the stage left it with.
        """
        entry = self._stages().get(stage)
        if entry is None:
            return False
        for name, recorded in entry["files"].items():
            path = self.path / name
            with os_errors("read", path):
                if not path.exists():
                    return False
                if path.stat().st_size == recorded.get("bytes"):
                    continue
            if self._stages().get(stage) != entry:  # a job beside this reader did the stage again in between
                return self.finished(stage)
            raise FnaError(_damaged(path, stage, "size"))
        return True

    def need(self, stage: str) -> None:
        """Refuse to go on without `stage`.

        Raises:
            FnaError: it is not finished, or a file has not the size it left it with.
        """
        if not self.finished(stage):
            raise FnaError(self._unfinished(stage))

    def read_bytes(self, stage: str, name: str) -> bytes:
        """Return the content of a file that `stage` wrote, verified.

        Raises:
            FnaError: the stage is not finished, or the file is missing or not as the stage left it.
        """
        self.need(stage)
        entry = self._entry(stage)
        if name not in entry["files"]:
            raise FnaError(f"{self.path}: stage '{stage}' left no {name}; it left: {', '.join(entry['files'])}")
        data = read_bytes(self.path / name)
        if fingerprint(data) == entry["files"][name]:
            return data
        if self._stages().get(stage) != entry:  # a job beside this reader did the stage again in between
            return self.read_bytes(stage, name)
        raise FnaError(_damaged(self.path / name, stage, "SHA-256"))

    def read_json(self, stage: str, name: str) -> Any:
        """Read a JSON file that `stage` wrote; see `Folder.read_bytes`."""
        return files.decode_json(self.path / name, self.read_bytes(stage, name))

    def read_state(self, stage: str, name: str) -> dict[str, Tensor]:
        """Read weights that `stage` wrote; see `Folder.read_bytes`."""
        return files.decode_state(self.path / name, self.read_bytes(stage, name))

    def stages(self) -> list[str]:
        """Return the names of the finished stages."""
        return list(self._stages())

    def info(self, stage: str) -> dict[str, Any]:
        """Return the `info` that `stage` was committed with.

        Raises:
            FnaError: the stage is not finished.
        """
        info: dict[str, Any] = self._entry(stage)["info"]
        return info

    def _entry(self, stage: str) -> dict[str, Any]:
        """Return what the manifest says of a finished stage."""
        entry: dict[str, Any] | None = self._stages().get(stage)
        if entry is None:
            raise FnaError(self._unfinished(stage))
        return entry

    def _unfinished(self, stage: str) -> str:
        """Say that `stage` is not finished, and what to type."""
        command, _, name = stage.partition(":")
        what, option = f"stage '{stage}'", ""
        if name:
            kind, option = NAMED[command]
            known = [done.removeprefix(f"{command}:") for done in self.stages() if done.startswith(f"{command}:")]
            what, option = f"{kind} '{name}'{nearest(name, known)}", f" {option} {name}"
        return f"the {what} of {self.path} is not finished; type: fna {command} {self.path}{option}"

    def _claim(self, name: str) -> Path:
        """Return where to write `name`, once no finished stage vouches for its old content."""
        assert self._lock, f"{self.path} is open for reading only"
        for stage, entry in self._stages().items():
            if name in entry["files"]:
                self.forget(stage)
        return self.path / name

    def _stages(self) -> dict[str, Any]:
        stages: dict[str, Any] = _check_ours(self.path)["stages"]
        return stages

    def _write_stages(self, stages: Mapping[str, Any]) -> None:
        assert self._lock, "only the writer of a folder changes it"
        files.write_json(self.path / MANIFEST, {"made_by": "fna", "format": FORMAT, "stages": stages})


def seed_folders(folder: Path, number: int | None = None) -> dict[int, Path]:
    """Return the run folders of several RNG seeds below a folder.

    Args:
        folder: where they are.
        number: how many there are to be: 0, 1 ...; None: those that are there.
    """
    if number is not None:
        return {k: folder / f"seed_{k}" for k in range(number)}
    found = {int(match[1]): path for path in folder.glob("seed_*") if (match := SEED_FOLDER.fullmatch(path.name))}
    return {k: found[k] for k in sorted(found) if (found[k] / MANIFEST).exists()}


def _take_lock(path: Path) -> FileLock:
    """Lock `path`; the system frees it when this process ends, however it ends.

    Forked data workers do not keep it: `filelock` closes their copy of its file (from 3.32 on).
    """

    def sign(descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())

    lock = FileLock(path / LOCK, thread_local=False, on_acquired=sign)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        owner = ""
        with suppress(OSError, ValueError):  # Windows lets nobody else read a locked file
            owner = (path / LOCK).read_text().strip()
        if owner == str(os.getpid()):
            raise FnaError(f"this process has {path} open already; close it first (leave its `with`)") from error
        raise FnaError(
            f"another fna process{f' (id {owner})' if owner else ''} is using {path}; "
            "wait for it to end, or give another folder with --run"
        ) from error
    return lock


def _damaged(path: Path, stage: str, what: str) -> str:
    return (
        f"{path} is not as the stage '{stage}' left it (its {what} differs from {MANIFEST}): "
        f"put the intact file back, or delete it and run the same command to do the stage again"
    )


def _check_ours(path: Path, *, or_empty: bool = False) -> dict[str, Any]:
    """Return the manifest of a run folder, or refuse a folder that is none."""
    if (path / MANIFEST).exists():
        manifest = read_json(path / MANIFEST)
        if isinstance(manifest, dict) and manifest.get("made_by") == "fna":
            number = manifest.get("format")
            if number != FORMAT:
                version = (
                    f"fna {WROTE[number]}"
                    if isinstance(number, int) and number in WROTE
                    else "the version that wrote it"
                )
                raise FnaError(
                    f"{path} was written in format {number}, this fna reads format {FORMAT}; "
                    f"use {version}, or give another folder with --run"
                )
            stages = manifest.get("stages")
            if isinstance(stages, dict) and all(_is_entry(entry) for entry in stages.values()):
                return manifest
    elif seeds := seed_folders(path):
        one = next(iter(seeds.values()))
        raise FnaError(f"{path} holds the runs of {len(seeds)} RNG seeds; give one of them, e.g. {one}, or --rng-seeds")
    elif or_empty and all(entry.name == LOCK or TEMPORARY.fullmatch(entry.name) for entry in path.iterdir()):
        return {}
    raise FnaError(f"{path} is no run folder of fna (it has no {MANIFEST} of ours); give a new or empty one with --run")


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("files"), dict)
        and all(isinstance(recorded, dict) for recorded in entry["files"].values())
        and isinstance(entry.get("info"), dict)
    )
