"""How long a job took, over interruptions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spent:
    """What a job took.

    Args:
        minutes: by the clock on the wall.
        compute_minutes: of computing. On a CPU it is the processor time of this process, all threads together, which
            other programs on the machine do not lengthen; on another device it is the same as `minutes`.
    """

    minutes: float = 0.0
    compute_minutes: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.minutes + other.minutes, self.compute_minutes + other.compute_minutes)

    def to_json(self) -> dict[str, float]:
        """Return both; `from_json` is its inverse."""
        return {"minutes": self.minutes, "compute_minutes": self.compute_minutes}

    @classmethod
    def from_json(cls, data: Any) -> Spent:
        """Read both from a record that may hold more.

        Raises:
            KeyError, TypeError, ValueError: they are not there, or no numbers.
        """
        return cls(float(data["minutes"]), float(data["compute_minutes"]))


NOTHING = Spent()


class Stopwatch:
    """Runs from when it is made.

    Args:
        device: the type of the device that computes, such as "cpu" or "cuda".
        before: what was spent before an interruption.
    """

    def __init__(self, device: str, before: Spent = NOTHING) -> None:
        self.before, self._computing = before, time.process_time if device == "cpu" else time.monotonic
        self._began = time.monotonic(), self._computing()

    def read(self) -> Spent:
        """Return what has been spent until now."""
        wall, computing = time.monotonic() - self._began[0], self._computing() - self._began[1]
        return self.before + Spent(wall / 60, computing / 60)
