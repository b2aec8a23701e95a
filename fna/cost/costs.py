"""What the networks of a space cost in one unit, and what a budget leaves of it. No torch here.

A cost is additive: every candidate of every layer has one, and what is outside the layers (stem, head) is the same for
all networks of a space. To add one, write what counts a block and name it in `COSTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fna.arch import SuperArch
from fna.config.budgets import Budget
from fna.cost.latency import LatencyTable, latency_table
from fna.cost.madds import CostTable, SizeHW, cost_table, param_table, path_cost
from fna.cost.units import with_unit
from fna.errors import FnaError, pick


@dataclass(frozen=True)
class Measure:
    """A way to count.

    Args:
        unit: of the numbers.
        table: (space at its output stride, size of the image, how to get at latencies) -> the cost of every candidate
            of every layer.
    """

    unit: str
    table: Callable[[SuperArch, SizeHW, Callable[[], LatencyTable]], CostTable]


COSTS = {
    "madds": Measure("MAdds", lambda space, size_hw, _: cost_table(space, size_hw)),
    "params": Measure("params", lambda space, size_hw, _: param_table(space)),
    "latency": Measure("ns", lambda space, size_hw, latencies: latency_table(space, size_hw, latencies())),
}


@dataclass(frozen=True)
class Costs:
    """What the networks of a space cost.

    Args:
        unit: of all numbers.
        table: cost of each candidate of each layer.
        other: cost outside the table: stem and head.
        seed: the whole network on the seed's architecture.
    """

    unit: str
    table: CostTable
    other: int
    seed: int

    def whole(self, path: Sequence[int]) -> int:
        """Return the cost of the whole network on a path."""
        return path_cost(self.table, path) + self.other

    @property
    def range(self) -> tuple[int, int]:
        """The cost of the cheapest and of the dearest whole network of the space."""
        low, high = (sum(map(extreme, self.table)) + self.other for extreme in (min, max))
        return low, high

    def limit(self, budget: Budget, name: str) -> int:
        """Return what a budget allows the whole network.

        Args:
            budget: x the seed's cost, or an amount of this unit.
            name: the setting it comes from, for messages.

        Raises:
            FnaError: no network of the space is within the budget, or all of them are far below it.
        """
        wanted = budget.amount * self.seed if budget.relative else budget.amount
        low, high = self.range
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
