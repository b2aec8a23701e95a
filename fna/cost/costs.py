"""What the networks of a space cost in one unit, and what a budget leaves of it. No torch here.

Every candidate of every layer has a cost, and what is outside the layers (stem, head) is the same for all networks of a
space. That of a network is their sum, or their maximum: the peak of memory. To add one, write what counts a block and
name it in `COSTS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fna.arch import SuperArch
from fna.config.budgets import Budget
from fna.cost.latency import LatencyTable, latency_table
from fna.cost.madds import CostTable, SizeHW, cost_table, param_table, path_cost
from fna.cost.units import with_unit
from fna.errors import FnaError, pick

N = TypeVar("N", int, float)


class Sources(Protocol):
    """Where a measure asks for what the specs do not tell; a `Problem`."""

    def latencies(self) -> LatencyTable:
        """Return what was measured on a device."""

    def peaks(self, strided: SuperArch) -> CostTable:
        """Return the bytes that are alive while each candidate of each layer runs."""


@dataclass(frozen=True)
class Measure:
    """A way to count.

    Args:
        unit: of the numbers.
        table: (space at its output stride, size of the image, other sources) -> the cost of every candidate of every
            layer.
        join: what a network costs by its parts: `sum` or `max`.
    """

    unit: str
    table: Callable[[SuperArch, SizeHW, Sources], CostTable]
    join: Callable[[Iterable[int]], int] = sum


COSTS = {
    "madds": Measure("MAdds", lambda space, size_hw, _: cost_table(space, size_hw)),
    "params": Measure("params", lambda space, size_hw, _: param_table(space)),
    "latency": Measure("ns", lambda space, size_hw, sources: latency_table(space, size_hw, sources.latencies())),
    "memory": Measure("B", lambda space, size_hw, sources: sources.peaks(space), max),
}


@dataclass(frozen=True)
class Costs:
    """What the networks of a space cost.

    Args:
        unit: of all numbers.
        table: cost of each candidate of each layer.
        other: cost outside the table: stem and head.
        seed: the whole network on the seed's architecture.
        join: see `Measure`.
    """

    unit: str
    table: CostTable
    other: int
    seed: int
    join: Callable[[Iterable[int]], int] = sum

    @property
    def additive(self) -> bool:
        """Whether costs add up."""
        return self.join is sum

    def whole(self, path: Sequence[int]) -> int:
        """Return the cost of the whole network on a path."""
        return self.join([*(row[choice] for row, choice in zip(self.table, path, strict=True)), self.other])

    @property
    def range(self) -> tuple[int, int]:
        """The cost of the cheapest and of the dearest whole network of the space."""
        low, high = (self.join([*map(extreme, self.table), self.other]) for extreme in (min, max))
        return low, high

    def added(self, limit: N) -> tuple[CostTable, N]:
        """Return costs that add up, and what a path within a limit may add up to.

        Of a maximum these are the excesses over the limit, of which there must be none: it forbids some candidates, and
        the others are free.
        """
        if self.additive:
            return self.table, limit - self.other
        return [[max(0, math.ceil(cost - limit)) for cost in row] for row in self.table], min(0, limit - self.other)

    def charged(self, path: Sequence[int], limit: int) -> int:
        """Return what a path takes of a limit: its cost; of a maximum the whole limit, and all excesses over it."""
        table, room = self.added(limit)
        return path_cost(table, path) - room + limit

    def limit(self, budget: Budget, name: str, reach: tuple[int, int] | None = None) -> int:
        """Return what a budget allows the whole network.

        Args:
            budget: x the seed's cost, or an amount of this unit.
            name: the setting it comes from, for messages.
            reach: the least and the most that a network may come to; None: `range`.

        Raises:
            FnaError: no network of the space is within the budget, or all of them are far below it.
        """
        wanted = budget.amount * self.seed if budget.relative else budget.amount
        low, high = reach or self.range
        if not low <= wanted <= high:
            raise FnaError(
                f"{name} {budget} means {with_unit(wanted, self.unit)}, but this space reaches from "
                f"{with_unit(low, self.unit)} to {with_unit(high, self.unit)} ({low / self.seed:.2f} to "
                f"{high / self.seed:.2f} x the seed); choose a budget in that range"
            )
        return int(wanted)


def find_measure(name: str) -> Measure:
    """Return the measure of a cost.

    Raises:
        FnaError: there is none of that name.
    """
    return pick(COSTS, name, "cost")
