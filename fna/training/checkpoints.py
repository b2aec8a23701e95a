"""Checkpoints of training: the last few states of a phase. No torch at import.

A checkpoint counts once its record with the SHA-256 is there, which is written last; neither torch nor safetensors
notices a flipped byte.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fna.errors import FnaError
from fna.files import fingerprint, parse_state, read_bytes, read_json, remove, temporaries, write_bytes, write_json

SCORES = "scores.json"  # of a search that scores candidates after its training
FORMAT = 1  # of a checkpoint, in its record; the first ones had none


class Checkpoints:
    """The last few states of one phase of training, each a file ``step-000123.pt`` and its record beside it.

    Args:
        path: the phase's folder, e.g. ``runs/camvid/checkpoints/search``.
        keep: how many to keep, so that a damaged one costs a few steps and not the run.
    """

    def __init__(self, path: Path, keep: int = 2) -> None:
        assert keep > 0, "at least the newest checkpoint is kept"
        self.path = path
        self.keep = keep

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint, then remove what it replaces: older ones beyond `keep`, and any of later steps.

        Args:
            step: steps done.
            state: tensors, numbers, text, None, and lists, tuples and dicts of them.

        Raises:
            FnaError: the disk is full, or the folder cannot be written, or the state holds NaN or infinity; the
                checkpoints before are intact.
        """
        import torch

        _assert_plain(state)
        fault = first_not_finite(state)
        if fault:
            raise FnaError(f"the state after iteration {step} has NaN or infinity in {fault}: it is not saved")
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path = self._path(step)
        write_bytes(path, buffer.getvalue())
        write_json(path.with_suffix(".json"), {"step": step, "format": FORMAT, **fingerprint(buffer.getvalue())})
        kept = {self._path(s) for s in [s for s in self.steps() if s <= step][-self.keep :]}
        # Records go first: a file without one is no checkpoint.
        remove(record for record in self.path.glob("step-*.json") if record.with_suffix(".pt") not in kept)
        remove(file for file in self.path.glob("step-*.pt") if file not in kept)

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return step and state of the newest intact checkpoint, or None if there is none at all.

        A damaged one is passed over with a warning. What killed writes left behind is removed.

        Raises:
            FnaError: there are checkpoints, and all are damaged.
        """
        remove(temporaries(self.path))
        first = ""
        for step in reversed(self.steps()):
            try:
                return step, self._load(step)
            except FnaError as error:
                first = first or str(error)
                warnings.warn(f"{error}; going back to the checkpoint before", stacklevel=2)
        if first:
            raise FnaError(
                f"no checkpoint in {self.path} is intact: {first}; delete this folder to begin the phase again"
            )
        return None

    def dump(self, step: int, what: dict[str, Any]) -> Path | None:
        """Write what a failed iteration had at hand, for people to look at; None where even that fails.

        Args:
            step: the iteration.
            what: as for `save`, but with anything in it; what is no tensor, number or text is left out.
        """
        import torch

        buffer, path = io.BytesIO(), self.path / f"failed-{step:06d}.pt"
        torch.save(_plain_only(what), buffer)
        with suppress(FnaError):
            write_bytes(path, buffer.getvalue())
            return path
        return None

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints, oldest first."""
        names = (re.fullmatch(r"step-(\d+)\.json", record.name) for record in self.path.glob("step-*.json"))
        return sorted(int(name[1]) for name in names if name)

    def clear(self) -> None:
        """Remove all checkpoints, so that the phase begins anew."""
        remove(self.path.glob("step-*.json"))
        kept = (file for pattern in ("step-*.pt", "failed-*.pt", SCORES) for file in self.path.glob(pattern))
        remove([*kept, *temporaries(self.path)])

    def _path(self, step: int) -> Path:
        return self.path / f"step-{step:06d}.pt"

    def _load(self, step: int) -> dict[str, Any]:
        path = self._path(step)
        record = read_json(path.with_suffix(".json"))
        number = record.pop("format", 1) if isinstance(record, dict) else None
        if number != FORMAT:
            raise FnaError(
                f"{path} is of format {number!r}, this fna reads format {FORMAT}: use the version that wrote it"
            )
        data = read_bytes(path)
        if record != {"step": step, **fingerprint(data)}:
            raise FnaError(f"{path} is damaged: its SHA-256 is not the recorded one")
        state: dict[str, Any] = parse_state(path, data, "expected a checkpoint of fna")
        fault = first_not_finite(state)
        if fault:
            raise FnaError(f"{path} holds NaN or infinity in {fault}")
        return state


def first_not_finite(state: Any) -> str:
    """Return where in nested dicts and lists the first number or tensor is that is not finite; '' if all are.

    >>> first_not_finite({"loop": {"alphas": [0.0, math.nan]}})
    'loop.alphas.1'
    """
    return next(_not_finite(state, ""), "")


def _not_finite(value: Any, where: str) -> Iterator[str]:
    import torch

    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in items:
            yield from _not_finite(entry, f"{where}.{key}" if where else str(key))
    elif isinstance(value, torch.Tensor):
        if value.is_floating_point() and not bool(value.isfinite().all()):
            yield where
    elif isinstance(value, float) and not math.isfinite(value):
        yield where


def _plain_only(value: Any) -> Any:
    """Return what the restricted reader will load of a value."""
    import torch

    if isinstance(value, dict):
        return {key: _plain_only(entry) for key, entry in value.items() if isinstance(key, str | int)}
    if isinstance(value, list | tuple):
        return [_plain_only(entry) for entry in value]
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    return value if value is None or type(value) in (bool, int, float, str) else f"({type(value).__name__})"


def _assert_plain(value: Any) -> None:
    """Assert that the restricted reader will load `value`; a NumPy number, for one, can be written but not read."""
    import torch

    if type(value) in (dict, OrderedDict):
        for key, entry in value.items():
            _assert_plain(key)
            _assert_plain(entry)
    elif type(value) in (list, tuple):
        for entry in value:
            _assert_plain(entry)
    else:
        plain = value is None or type(value) in (bool, int, float, str) or isinstance(value, torch.Tensor)
        assert plain, f"a checkpoint holds tensors, numbers and text, not a {type(value).__name__}"
