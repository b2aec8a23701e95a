"""Checkpoints of training: the last few states of a phase. No torch at import.

A checkpoint counts once its record with the SHA-256 is there, which is written last; neither torch nor safetensors
notices a flipped byte.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

from fna.errors import FnaError
from fna.files import fingerprint, parse_state, read_bytes, read_json, remove, temporaries, write_bytes, write_json

SCORES = "scores.json"  # of a search that scores candidates after its training


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
            FnaError: the disk is full, or the folder cannot be written; the checkpoints before are intact.
        """
        import torch

        _assert_plain(state)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path = self._path(step)
        write_bytes(path, buffer.getvalue())
        write_json(path.with_suffix(".json"), {"step": step, **fingerprint(buffer.getvalue())})
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
        steps = self.steps()
        for step in reversed(steps):
            try:
                return step, self._load(step)
            except FnaError as error:
                warnings.warn(f"{error}; going back to the checkpoint before", stacklevel=2)
        if steps:
            raise FnaError(f"no checkpoint in {self.path} is intact; delete this folder to begin the phase again")
        return None

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints, oldest first."""
        names = (re.fullmatch(r"step-(\d+)\.json", record.name) for record in self.path.glob("step-*.json"))
        return sorted(int(name[1]) for name in names if name)

    def clear(self) -> None:
        """Remove all checkpoints, so that the phase begins anew."""
        remove(self.path.glob("step-*.json"))
        remove([*self.path.glob("step-*.pt"), *self.path.glob(SCORES), *temporaries(self.path)])

    def _path(self, step: int) -> Path:
        return self.path / f"step-{step:06d}.pt"

    def _load(self, step: int) -> dict[str, Any]:
        path = self._path(step)
        record = read_json(path.with_suffix(".json"))
        data = read_bytes(path)
        if record != {"step": step, **fingerprint(data)}:
            raise FnaError(f"{path} is damaged: its SHA-256 is not the recorded one")
        state: dict[str, Any] = parse_state(path, data, "expected a checkpoint of fna")
        return state


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
