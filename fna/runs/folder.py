"""The run folder: plain files, a manifest that says which stages are finished, and a lock. No torch at import."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from fna import files
from fna.errors import FnaError, nearest, quoted
from fna.files import TEMPORARY, fingerprint, os_errors, read_bytes, remove, temporaries
from fna.runs.manifest import (
    MANIFEST,
    damaged,
    damages,
    not_ours,
    read_checked,
    read_manifest,
    seed_folders,
    write_manifest,
)

if TYPE_CHECKING:
    from torch import Tensor

LOCK = ".lock"
NEW: Mapping[str, Any] = {"settings": None, "made_with": [], "kept": {}}  # what a manifest begins with
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
                raise FnaError(f"there is no run folder {path}; start one with: fna run RECIPE --run {quoted(path)}")
            if not writer:
                read_manifest(path)
                return cls(path, None)
            path.mkdir(parents=True, exist_ok=True)
            _check_ours(path, or_empty=create)
            folder = cls(path, _take_lock(path))
        try:
            with os_errors("open", path):
                _refuse_links(path)
                remove(_left_behind(path))
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

    def keep(self, name: str, content: Any, *, settings: Mapping[str, Any] | None = None) -> None:
        """Write a file that is no stage's result, and record how it is; killed in between, it may be as it was before.

        Args:
            name: of the file.
            content: as for `write`.
            settings: those of the run from now on, if it is they that change.
        """
        assert self._lock, f"{self.path} is open for reading only"
        manifest = read_manifest(self.path)
        if settings is not None:
            manifest["settings"] = settings
        data = content.encode() if isinstance(content, str) else files.json_bytes(content)
        before = manifest["kept"].get(name, [])
        manifest["kept"][name] = [*before, fingerprint(data)]
        write_manifest(self.path, manifest)
        files.write_bytes(self.path / name, data)
        manifest["kept"][name] = [fingerprint(data)]
        write_manifest(self.path, manifest)

    def expect(self, names: Iterable[str]) -> None:
        """Record that files are there which have a digest of their own."""
        manifest, new = read_manifest(self.path), {name: list[Any]() for name in names}
        if new.keys() - manifest["kept"].keys():
            write_manifest(self.path, {**manifest, "kept": {**new, **manifest["kept"]}})

    def lost(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that were recorded and are no files any more."""
        known = read_manifest(self.path)["kept"].keys() & set(names)
        return sorted(name for name in known if not (self.path / name).exists())

    def read(self, name: str) -> bytes:
        """Return the content of a file, verified if there is a record of how it is.

        Raises:
            FnaError: it is missing, or not as it was left.
        """
        return read_checked(self.path, name)

    def note_machine(self, stage: str, machine: Mapping[str, str]) -> str:
        """Record what a stage is computed with, if it is something else than before; return the sentence that says so.

        Args:
            stage: that begins, or goes on.
            machine: what its weights depend on: device, threads, version of torch ...
        """
        manifest = read_manifest(self.path)
        known = manifest["made_with"]
        if not known or known[-1]["machine"] != machine:
            known.append({"stage": stage, "machine": dict(machine)})
            write_manifest(self.path, manifest)
            return (self.made_with() or [""])[-1] if len(known) > 1 else ""
        return ""

    def made_with(self) -> list[str]:
        """Return a sentence for each time that the run went on with something else than before."""
        known = read_manifest(self.path)["made_with"]
        sentences = []
        for before, now in pairwise(known):
            old, new = before["machine"], now["machine"]
            changes = [f"{key} {new.get(key)} (before: {old.get(key)})" for key in new if new.get(key) != old.get(key)]
            sentences.append(
                f"'{now['stage']}' went on with {', '.join(changes)}: weights are not bit for bit those of a run "
                "without the change"
            )
        return sentences

    def damages(self) -> list[str]:
        """Return what is wrong with the files of the run that are there, a line each."""
        return damages(self.path)

    @property
    def settings(self) -> dict[str, Any] | None:
        """The run's settings as plain data; None where they have not been recorded."""
        settings: dict[str, Any] | None = read_manifest(self.path)["settings"]
        return settings

    def commit(
        self, stage: str, files: Iterable[str], info: Mapping[str, Any] | None = None, logs: Iterable[str] = ()
    ) -> None:
        """Record that `stage` is finished and which files are its result.

        Args:
            stage: its name.
            files: names in the folder, already written.
            info: what else the record shall say, JSON-ready.
            logs: names of what it wrote on its way, which may go missing without the stage being done again.
        """
        entry = {
            "files": {name: fingerprint(read_bytes(self.path / name)) for name in files},
            "logs": {name: fingerprint(read_bytes(self.path / name)) for name in logs if (self.path / name).exists()},
            "info": info or {},
        }
        self._write_stages({**self._stages(), stage: entry})

    def adopt(self, stage: str, other: Folder) -> None:
        """Take over a finished stage of another run; its log is left behind.

        Raises:
            FnaError: it is not finished there.
        """
        other.need(stage)
        entry = other._entry(stage)
        for name in entry["files"]:
            files.link(other.path / name, self._claim(name))
        self._write_stages({**self._stages(), stage: {**entry, "logs": {}}})

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
            raise FnaError(damaged(path, stage, "size"))
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
        raise FnaError(damaged(self.path / name, stage, "SHA-256"))

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
            known = [s.partition(":")[2] for s in self.stages() if s.startswith(f"{command}:") and s != stage]
            what, option = f"{kind} '{name}'{nearest(name, known)}", f" {option} {name}"
        return f"the {what} of {self.path} is not finished; type: fna {command} {quoted(self.path)}{option}"

    def _claim(self, name: str) -> Path:
        """Return where to write `name`, once no finished stage vouches for its old content."""
        assert self._lock, f"{self.path} is open for reading only"
        for stage, entry in self._stages().items():
            if name in entry["files"]:
                self.forget(stage)
        return self.path / name

    def _stages(self) -> dict[str, Any]:
        stages: dict[str, Any] = read_manifest(self.path)["stages"]
        return stages

    def _write_stages(self, stages: Mapping[str, Any]) -> None:
        assert self._lock, "only the writer of a folder changes it"
        known = read_manifest(self.path) if (self.path / MANIFEST).exists() else NEW
        write_manifest(self.path, {**known, "stages": stages})


def _refuse_links(path: Path) -> None:
    """Refuse a run folder that would have fna write to places outside it, or wait for ever for something to read."""
    for entry in path.rglob("*"):
        mode = entry.lstat().st_mode
        linked = stat.S_ISLNK(mode)
        if linked and (entry.is_dir() or not entry.exists() or entry.suffix == ".csv"):
            raise FnaError(
                f"cannot open {path}: {entry} is a link, and fna writes to no place outside a run folder; put the file "
                "or folder itself there (the run folder as a whole may be a link)"
            )
        if not (linked or stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise FnaError(f"cannot open {path}: {entry} is neither a file nor a folder; remove it")


def _left_behind(path: Path) -> list[Path]:
    """Return what killed writes left in a run folder, those inside it aside: they may have writers of their own."""
    inside = [manifest.parent for manifest in path.glob(f"*/**/{MANIFEST}")]
    return [file for file in temporaries(path) if not any(run in file.parents for run in inside)]


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


def _check_ours(path: Path, *, or_empty: bool = False) -> None:
    """Refuse a folder that is no run folder, nor empty where that will do."""
    if (path / MANIFEST).exists():
        read_manifest(path)
    elif seeds := seed_folders(path):
        one = next(iter(seeds.values()))
        raise FnaError(f"{path} holds the runs of {len(seeds)} RNG seeds; give one of them, e.g. {one}, or --rng-seeds")
    elif not or_empty or not all(entry.name == LOCK or TEMPORARY.fullmatch(entry.name) for entry in path.iterdir()):
        raise FnaError(not_ours(path))
