"""The manifest of a run folder: which stages are finished, and a digest of every file that is read again.

It has a digest of its own, so that nothing in the folder is believed that is not as fna left it. No torch at import.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fna.errors import FnaError
from fna.files import fingerprint, os_errors, read_bytes, read_json, write_json

MANIFEST = "manifest.json"
FORMAT = 2  # of the manifest and the folder's layout
WROTE = {1: "0.1"}  # versions of fna that wrote other formats
KEYS = {"made_by", "format", "stages"}
MORE = {"settings", "made_with", "kept", "sha256"}  # absent from what the first writers of this format left
BY_HAND = {"config.yaml": "settings are changed by options, such as --adapt.epochs 30"}  # what people may have edited
SEED_FOLDER = re.compile(r"seed_(\d{1,9})")  # the run of an RNG seed, among several


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a run folder, complete.

    Returns:
        ``stages``: name -> ``files`` and ``logs`` with their fingerprints, and ``info``; ``kept``: files of no stage ->
        the fingerprints they may have; ``settings`` of the run, or None; ``made_with``: what computed it, in order.

    Raises:
        FnaError: there is none, or it is another program's, another version's, or damaged.
    """
    file = path / MANIFEST
    with os_errors("read", file):
        there = file.exists()
    manifest = read_json(file) if there else None
    if not isinstance(manifest, dict) or manifest.get("made_by") != "fna":
        raise FnaError(not_ours(path))
    number = manifest.get("format")
    if number != FORMAT:
        version = f"fna {WROTE[number]}" if isinstance(number, int) and number in WROTE else "the version that wrote it"
        raise FnaError(
            f"{path} was written in format {number}, this fna reads format {FORMAT}; "
            f"use {version}, or give another folder with --run"
        )
    if manifest.keys() == KEYS and _is_whole(manifest):
        return {"settings": None, "made_with": [], "kept": {}, **manifest}
    if manifest.keys() != KEYS | MORE or manifest.pop("sha256") != _digest(manifest) or not _is_whole(manifest):
        raise FnaError(
            f"{file} is damaged: its content has not the SHA-256 it was written with; put the intact file back, or "
            "start again in another folder with --run"
        )
    return manifest


def not_ours(path: Path) -> str:
    """Say that a folder is no run folder."""
    return f"{path} is no run folder of fna (it has no {MANIFEST} of ours); give a new or empty one with --run"


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest as `read_manifest` returns it, with its digest."""
    own = json.loads(json.dumps({"made_by": "fna", "format": FORMAT, **manifest}, allow_nan=False))  # as it is read
    write_json(path / MANIFEST, {**own, "sha256": _digest(own)})


def damaged(path: Path, stage: str, what: str) -> str:
    """Say that a file is not as it was written, and what to do.

    Args:
        path: the file.
        stage: whose result or log it is; empty: of none.
        what: differs: its SHA-256, its size.
    """
    name = path.name
    if path.suffix == ".csv":
        whose, remedy = f"the stage '{stage}'", "delete it; a log is for the report alone"
    elif stage:
        whose, remedy = f"the stage '{stage}'", "delete it and run the same command to do the stage again"
    else:
        whose, remedy = "fna", f"delete it, and it is made again{f' ({BY_HAND[name]})' if name in BY_HAND else ''}"
    return (
        f"{path} is not as {whose} left it (its {what} differs from {MANIFEST}): put the intact file back, or {remedy}"
    )


def vouched(manifest: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield what a manifest says of a file, which may be one of several: whose it is ('': no stage's), and how."""
    for stage, entry in manifest["stages"].items():
        for kind in ("files", "logs"):
            if name in entry.get(kind, ()):
                yield stage, entry[kind][name]
    yield from (("", recorded) for recorded in manifest["kept"].get(name, ()))


def read_vouched(path: Path) -> bytes:
    """Return the content of a file; if it lies in a run folder that has its digest, only if that is right.

    Raises:
        FnaError: the file is missing or unreadable, or it, or the manifest, is not as it was written.
    """
    for folder in (path.parent, path.parent.parent):
        if (folder / MANIFEST).is_file():
            return read_checked(folder, path.relative_to(folder).as_posix())
    return read_bytes(path)


def read_checked(folder: Path, name: str) -> bytes:
    """Return the content of a run's file, verified if the manifest has its digest; see `read_vouched`."""
    known = list(vouched(read_manifest(folder), name)) if (folder / MANIFEST).exists() else []
    data = read_bytes(folder / name)
    if known and all(recorded != fingerprint(data) for _, recorded in known):
        if known != list(vouched(read_manifest(folder), name)):  # a job beside this reader wrote it again in between
            return read_checked(folder, name)
        raise FnaError(damaged(folder / name, known[0][0], "SHA-256"))
    return data


def damages(folder: Path) -> list[str]:
    """Return what is wrong with the files of a run that are there; a line each."""
    manifest, wrong = read_manifest(folder), []
    names = {
        name for entry in manifest["stages"].values() for kind in ("files", "logs") for name in entry.get(kind, ())
    }
    for name in sorted(names | manifest["kept"].keys()):
        try:
            if (folder / name).exists():
                read_checked(folder, name)
        except (FnaError, OSError) as error:
            wrong.append(str(error))
    return wrong


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _is_whole(manifest: Mapping[str, Any]) -> bool:
    stages = manifest["stages"]
    return isinstance(stages, dict) and all(map(_is_entry, stages.values()))


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("files"), dict)
        and all(isinstance(recorded, dict) for recorded in entry["files"].values())
        and isinstance(entry.get("info"), dict)
    )


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
