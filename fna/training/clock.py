"""How long a job took, and how much memory, over interruptions."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Spent:
    """What a job took.

    Args:
        minutes: by the clock on the wall.
        compute_minutes: of computing. On a CPU it is the processor time of this process, all threads together, which
            other programs on the machine do not lengthen; on another device it is the same as `minutes`.
        peak_memory: bytes at most: what torch had allocated on a GPU, or what this process had since it began; 0 where
            the system does not tell.
    """

    minutes: float = 0.0
    compute_minutes: float = 0.0
    peak_memory: int = 0

    def __add__(self, other: Spent) -> Spent:
        minutes, computing = self.minutes + other.minutes, self.compute_minutes + other.compute_minutes
        return Spent(minutes, computing, max(self.peak_memory, other.peak_memory))

    def to_json(self) -> dict[str, Any]:
        """Return all of it; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Spent:
        """Read it from a record that may hold more.

        Raises:
            KeyError, TypeError, ValueError: they are not there, or no numbers.
        """
        return cls(float(data["minutes"]), float(data["compute_minutes"]), int(data["peak_memory"]))


NOTHING = Spent()


class Stopwatch:
    """Runs from when it is made.

    Args:
        device: the type of the device that computes, such as "cpu" or "cuda".
        before: what was spent before an interruption.
    """

    def __init__(self, device: str, before: Spent = NOTHING) -> None:
        self.device, self.before = device, before
        self._computing = time.process_time if device == "cpu" else time.monotonic
        self._began = time.monotonic(), self._computing()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def read(self) -> Spent:
        """Return what has been spent until now."""
        wall, computing = time.monotonic() - self._began[0], self._computing() - self._began[1]
        return self.before + Spent(wall / 60, computing / 60, _peak_memory(self.device))


def _peak_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:  # Linux
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
