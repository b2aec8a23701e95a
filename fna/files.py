"""Files that survive a crash: atomic writes, safe reading. No torch at import.

Every file is written beside its final place, flushed to the disk and moved there in one step: a reader finds the old
content or the new, never a part.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from fna.errors import FnaError

if TYPE_CHECKING:
    from torch import Tensor

TEMPORARY = re.compile(r".+\.\d+\.tmp")  # what `write_bytes` calls a file on its way: NAME.PROCESS.tmp
PICKLES = (b"P", b"\x80")  # what files of torch begin with: a zip archive's name, or a pickle's
SEAL = "fna.sha256"  # in the header of safetensors files: of all else in them
LARGEST_TEXT = 2 * 10**9  # bytes; COCO's largest json has half a gigabyte
ADVICE = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.EACCES: "give a place you may use",
    errno.EPERM: "give a place you may use",
    errno.EROFS: "give a place you may write to",
}


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it holds its old content or `data`, whatever happens on the way.

    Raises:
        FnaError: the disk is full, or the place cannot be written; the old content is intact.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with os_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            with suppress(OSError):  # gone already if all went well
                temporary.unlink()


def link(source: Path, path: Path) -> None:
    """Let a file have the content of another: as a hard link where the disk allows it, else as a copy.

    Files are replaced, never changed, so neither of the two notices what becomes of the other.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with os_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON without NaN or infinity; see `write_bytes`."""
    write_bytes(path, json_bytes(data))


def json_bytes(data: Any) -> bytes:
    """Return `data` as `write_json` writes it."""
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(
        errors="backslashreplace"  # of a file's name that is no UTF-8: JSON's own escape of it
    )


def write_state(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as a safetensors file, contiguous and on the CPU, with text in its header; see `write_bytes`.

    Its header has a digest of all else in the file, which `read_state` compares.
    """
    import torch
    from safetensors.torch import save

    # Copies, because safetensors refuses tensors that share memory.
    copies = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in state.items()}
    digest = _own_digest(save(copies, dict(metadata or {})))
    write_bytes(path, save(copies, {**(metadata or {}), SEAL: digest}))


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        FnaError: the file is missing or unreadable, or is something that may never end: a pipe, a device.
    """
    with os_errors("read", path):
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise FnaError(f"cannot read {path}: it is a pipe or a device, not a file")
        return path.read_bytes()


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark; see `read_bytes`.

    Raises:
        OSError: the file is missing or unreadable, so that the caller may say what was expected.
        ValueError: it is no UTF-8, or its name holds a NUL.
        FnaError: it is a pipe or a device, or larger than any text a person writes.
    """
    size, mode = (info := path.stat()).st_size, info.st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise FnaError(f"cannot read {path}: it is a pipe or a device, not a file")
    if size > LARGEST_TEXT:
        raise FnaError(f"cannot read {path}: it has {size / 1e9:.1f} GB, more than {LARGEST_TEXT / 1e9:g} are refused")
    return path.read_text(encoding="utf-8-sig")


def no_link(path: str, flags: int) -> int:
    """Open a file for `open`, but not through a link in its last part."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FnaError: the file is missing or unreadable, or is no JSON (NaN and infinity are none).
    """
    return decode_json(path, read_bytes(path))


def decode_json(path: Path, data: bytes) -> Any:
    """Decode the content of the JSON file `path`; see `read_json`."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FnaError(f"{path} is no valid JSON: {error}") from error


def read_state(path: Path, *, finite: bool = True) -> dict[str, Tensor]:
    """Read named tensors from a safetensors or a torch file, told apart by content; no code in the file is run.

    Args:
        path: the file.
        finite: refuse NaN and infinity.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        FnaError: the file is missing, cut short, of another kind, or holds what is no ordinary finite tensor.
    """
    return decode_state(path, read_bytes(path), finite=finite)


def decode_state(path: Path, data: bytes, *, finite: bool = True) -> dict[str, Tensor]:
    """Decode the content of the file of named tensors `path`; see `read_state`."""
    expected = "expected named tensors: a safetensors file, or a state dict written by torch.save"
    if not data:
        raise FnaError(f"{path} is empty; {expected}")
    state = parse_state(path, data, expected)
    if not isinstance(state, dict) or not state:
        raise FnaError(f"{path} holds {'an empty dict' if state == {} else f'a {type(state).__name__}'}; {expected}")
    for name, value in state.items():
        fault = _fault(name, value, finite)
        if fault:
            raise FnaError(f"{path}: '{name}' {fault}; {expected}")
    return {name: value.detach() for name, value in state.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """Return the text in the header of a safetensors file.

    Raises:
        FnaError: the file is missing or no such file.
    """
    from safetensors import SafetensorError, safe_open

    with os_errors("read", path):
        try:
            with safe_open(path, framework="numpy") as file:
                return file.metadata() or {}
        except SafetensorError as error:
            raise FnaError(f"cannot read {path}: it is no safetensors file, or cut short or damaged") from error


def fingerprint(data: bytes) -> dict[str, Any]:
    """Return the SHA-256 and the size of a file's content, JSON-ready."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def remove(paths: Iterable[Path]) -> None:
    """Delete files; one that is gone already is none of our concern."""
    for path in paths:
        with os_errors("remove", path):
            path.unlink(missing_ok=True)


def temporaries(folder: Path) -> list[Path]:
    """Return what killed writes left behind in a folder and those below it; a user's ``notes.tmp`` is none of ours."""
    return [path for path in folder.rglob("*.tmp") if TEMPORARY.fullmatch(path.name)]


@contextmanager
def os_errors(action: str, path: Path) -> Iterator[None]:
    """Turn the operating system's errors into an `FnaError` that names the file."""
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0)
        raise FnaError(f"cannot {action} {path}: {error.strerror or error}{f'; {advice}' if advice else ''}") from error


def _fault(name: Any, value: Any, finite: bool) -> str:
    """Say what is wrong with an entry of a state dict; empty if nothing is."""
    import torch

    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}, no named tensor"
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        return "is no ordinary dense tensor"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"claims the shape {tuple(value.shape)} with too little data"
    if finite and (value.is_floating_point() or value.is_complex()):
        wide = value.float() if value.element_size() == 1 else value  # 8-bit floats have no isfinite
        if not bool(wide.isfinite().all()):
            return "holds NaN or infinity"
    return ""


def parse_state(path: Path, data: bytes, expected: str, remedy: str = "") -> Any:
    """Parse safetensors, or what torch's restricted reader accepts: tensors and plain containers, no code.

    Args:
        path: the file, for messages.
        data: its content.
        expected: what it should be.
        remedy: what to do with a file of torch that holds Python objects.
    """
    import torch
    from safetensors.torch import load

    try:
        if data[8:9] == b"{":
            state = load(data)
            sealed = _header(data).get("__metadata__", {}).get(SEAL)
            if sealed is not None and sealed != _own_digest(data):
                raise FnaError(
                    f"{path} is damaged: its content has not the SHA-256 it was written with; put the intact file back "
                    f"(a program that changed it on purpose must drop '{SEAL}' from its metadata)"
                )
            return state
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except FnaError:
        raise
    except Exception as error:  # what a damaged or hostile file can raise is not a closed list
        # torch's own message would advise to switch the restriction off.
        what, more = "is cut short or damaged", ""
        if isinstance(error, UnpicklingError):
            what, more = "holds Python objects or is no such file", remedy if data[:1] in PICKLES else ""
        raise FnaError(f"cannot read {path}: it {what} ({type(error).__name__}); {expected}{more}") from error


def _header(data: bytes) -> dict[str, Any]:
    """Return the header of a safetensors file's content."""
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


def _own_digest(data: bytes) -> str:
    """Return the SHA-256 of what a safetensors file's content says, but for the digest in it."""
    header = _header(data)
    header["__metadata__"] = {key: text for key, text in header.get("__metadata__", {}).items() if key != SEAL}
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(memoryview(data)[8 + int.from_bytes(data[:8], "little") :])
    return digest.hexdigest()


def _sync_folder(path: Path) -> None:
    """Flush a folder's list of names, without which a rename may be lost with the power; Windows opens no folders."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
