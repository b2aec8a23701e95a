"""The run folder: plain files, a manifest that says which stages are finished, and a lock. No torch at import."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from fna import files
from fna.errors import FnaError
from fna.files import fingerprint, os_errors, read_bytes, read_json, remove

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
LOCK = ".lock"
FORMAT = 1  # of the manifest


class Folder:
    """A run's folder: plain files, and a manifest that says which stages are finished.

    ```
    with Folder.open(Path("runs/camvid")) as folder:
        folder.write_json("target.json", arch.to_json())
        folder.commit("derive", ["target.json"])
    ```
    """

    def __init__(self, path: Path, lock: IO[str] | None) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, create: bool = True, writer: bool = True) -> Self:
        """Open a run folder.

        Args:
            path: the folder.
            create: make it if it is missing (writers only).
            writer: take the folder for this process alone until `close`; readers need no lock.

        Raises:
            FnaError: the folder is missing, is a file, cannot be written, is not ours, or is in use.
        """
        with os_errors("open", path):
            if path.exists() and not path.is_dir():
                raise FnaError(f"{path} is a file; --run takes a folder")
            if not path.exists() and not (create and writer):
                raise FnaError(f"there is no run folder {path}; start one with: fna run RECIPE --run {path}")
            path.mkdir(parents=True, exist_ok=True)
            _check_ours(path, or_empty=create and writer)
            folder = cls(path, _take_lock(path) if writer else None)
        if writer:
            try:
                remove(path.glob("*.tmp"))  # of a killed write
                if not (path / MANIFEST).exists():
                    folder._write_stages({})
            except FnaError:
                folder.close()
                raise
        return folder

    def close(self) -> None:
        """Give the folder free for other processes."""
        if self._lock:
            self._lock.close()
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

    def read_json(self, stage: str, name: str) -> Any:
        """Read a JSON file that `stage` wrote."""
        return read_json(self.path / name)

    def read_state(self, stage: str, name: str) -> dict[str, Tensor]:
        """Read weights that `stage` wrote."""
        return files.read_state(self.path / name)

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
        """Tell whether `stage` is finished and its files are there.

        Raises:
            FnaError: a file is not the one the stage wrote.
        """
        entry = self._stages().get(stage)
        if entry is None:
            return False
        for name, recorded in entry["files"].items():
            path = self.path / name
            if not path.exists():
                return False
            if fingerprint(read_bytes(path)) != recorded:
                raise FnaError(
                    f"{path} is not as the stage '{stage}' left it (its SHA-256 differs from {MANIFEST}): "
                    f"put the intact file back, or delete it and run the same command to do the stage again"
                )
        return True

    def stages(self) -> list[str]:
        """Return the names of the finished stages."""
        return list(self._stages())

    def info(self, stage: str) -> dict[str, Any]:
        """Return the `info` that `stage` was committed with.

        Raises:
            FnaError: the stage is not finished.
        """
        stages = self._stages()
        if stage not in stages:
            done = f"finished: {', '.join(stages)}" if stages else "no stage is finished"
            raise FnaError(f"{self.path}: stage '{stage}' is not finished ({done}); type: fna {stage} {self.path}")
        info: dict[str, Any] = stages[stage]["info"]
        return info

    def _claim(self, name: str) -> Path:
        """Return where to write `name`, once no finished stage vouches for its old content."""
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


def _take_lock(path: Path) -> IO[str]:
    """Lock `path` for this process; the system frees it when the process ends, however it ends.

    A record lock, because `flock` is inherited by forked data workers and would outlive a killed run by seconds.
    """
    file = (path / LOCK).open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read(20).strip()
        file.close()
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        raise FnaError(
            f"another fna process{f' (id {owner})' if owner else ''} is using {path}; "
            "wait for it to end, or give another folder with --run"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _check_ours(path: Path, *, or_empty: bool = False) -> dict[str, Any]:
    """Return the manifest of a run folder, or refuse a folder that is none."""
    if (path / MANIFEST).exists():
        manifest = read_json(path / MANIFEST)
        if isinstance(manifest, dict) and manifest.get("made_by") == "fna":
            if manifest.get("format") != FORMAT:
                raise FnaError(
                    f"{path} was written in format {manifest.get('format')}, this fna reads format {FORMAT}; "
                    "use the version that wrote it, or give another folder with --run"
                )
            stages = manifest.get("stages")
            if isinstance(stages, dict) and all(_is_entry(entry) for entry in stages.values()):
                return manifest
    elif or_empty and all(entry.name == LOCK or entry.suffix == ".tmp" for entry in path.iterdir()):
        return {}
    raise FnaError(f"{path} is no run folder of fna (it has no {MANIFEST} of ours); give a new or empty one with --run")


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("files"), dict) and isinstance(entry.get("info"), dict)
