"""Numbers of training that are on the device and to be looked at, read many at once: each read waits for the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fna.errors import FnaError
from fna.training import distributed

EVERY = 10  # iterations between two reads of a device that works on while the host prepares the next
REMEDY = "lower the learning rate or set a gradient clip, and start a new run folder"

Row = Mapping[str, float | Tensor | None]  # what an iteration tells


class NotFiniteError(FnaError):
    """A number went bad in an iteration, whose batch is kept to be looked at."""

    def __init__(self, message: str, step: int, batch: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.step, self.batch = step, dict(batch)


def check_finite(value: float, what: str, step: int, rate: float, batch: Mapping[str, Any]) -> None:
    """Stop a run whose numbers went bad, naming step, learning rate and the batch's files.

    Raises:
        NotFiniteError: `value` is infinite or not a number.
    """
    if not math.isfinite(value):
        files = ", ".join(distributed.gather(list(batch.get("names", [])))) or "unknown"
        raise NotFiniteError(
            f"the {what} became {value} at iteration {step} (learning rate {rate:.3g}); files of the batch: {files}. "
            f"The last checkpoint is kept: {REMEDY}",
            step,
            batch,
        )


@dataclass
class Readings:
    """The rows of the last iterations, and what in these must be finite, until they are read.

    Args:
        every: iterations whose numbers are read together. 1, as on a CPU, where nothing has to wait: a bad number is
            met before it harms the weights.
    """

    every: int
    _rows: list[tuple[int, Row]] = field(default_factory=list)
    _checks: list[tuple[Tensor, tuple[Any, ...]]] = field(default_factory=list)

    @classmethod
    def of(cls, device: torch.device) -> Readings:
        """Return empty ones for what a device computes."""
        return cls(1 if device.type == "cpu" else EVERY)

    def check(self, value: Tensor, what: str, step: int, rate: float, batch: Mapping[str, Any]) -> None:
        """Have a number looked at, at once or when the row of its iteration is read; see `check_finite`."""
        if self.every == 1:
            check_finite(float(value), what, step, rate, batch)
        else:
            self._checks.append((value, (what, step, rate, batch)))

    def settle(self) -> None:
        """Look at what is held to be looked at, oldest first; rows stay.

        Raises:
            NotFiniteError: a number is not.
        """
        checks, self._checks = self._checks, []
        for value, (_, about) in zip(_read([value for value, _ in checks]), checks, strict=True):
            check_finite(value, *about)

    def take(self, step: int, row: Row, now: bool) -> Iterator[tuple[int, dict[str, float | None]]]:
        """Take the row of an iteration; yield those held, oldest first, if there are enough or they are wanted `now`.

        Raises:
            NotFiniteError: a number is not, in the iteration after those that were yielded.
        """
        self._rows.append((step, row))
        if not now and len(self._rows) < self.every:
            return
        rows, checks = self._rows, self._checks
        self._rows, self._checks = [], []
        held = [value for _, row in rows for value in row.values() if isinstance(value, Tensor)]
        numbers = iter(_read([*held, *(value for value, _ in checks)]))
        read = [(step, {name: _number(value, numbers) for name, value in row.items()}) for step, row in rows]
        looked_at = [(next(numbers), about) for _, about in checks]
        for step, numbers_of in read:
            for value, about in looked_at:
                if about[1] == step:
                    check_finite(value, *about)
            yield step, numbers_of


def _read(values: list[Tensor]) -> list[float]:
    """Return scalars of one device as numbers, in one read."""
    return torch.stack([value.detach().double() for value in values]).tolist() if values else []


def _number(value: float | Tensor | None, numbers: Iterator[float]) -> float | None:
    return next(numbers) if isinstance(value, Tensor) else value
