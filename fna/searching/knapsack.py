"""Architectures within a budget, the likeliest or a random one: a knapsack over the layers. No torch here.

A candidate's loss is how far its alpha is below the layer's largest: the softmax's denominator is the same for every
path. Dynamic programming keeps, for every point of a grid of budgets, the least loss that the layers so far can have;
one table answers all budgets. Costs are rounded up to the grid, so that a path is never above its budget; with `GRID`
points what is given away is at most a `GRID`-th of the span of costs a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fna.arch import LayerPath
from fna.cost.madds import CostTable
from fna.errors import FnaError

Series = NDArray[np.float64]

GRID = 2**16
COARSE = 2**12  # points of the grid on which paths are counted


def best_path(table: CostTable, alphas: Sequence[Sequence[float]], budget: int) -> LayerPath:
    """Return the path of least loss within a budget; of equal ones a cheaper one.

    Args:
        table: the cost of every candidate of every layer.
        alphas: a number per candidate; more is better.
        budget: the most the layers may cost together.

    Raises:
        FnaError: no path is within the budget, or the alphas do not belong to the table.
    """
    check(table, alphas)
    least = [min(costs) for costs in table]
    room = budget - sum(least)
    if room < 0:
        raise FnaError(
            f"no architecture of the search space fits a budget of {budget:,} for its layers: they cost from "
            f"{sum(least):,} to {sum(map(max, table)):,}; raise the budget or add cheaper candidates"
        )
    if room == 0:
        return _cheapest(table, alphas)
    step = max(room / GRID, 1.0)
    points = math.floor(room / step) + 1
    best_G = np.zeros(points)  # least loss of the layers so far within g steps above the cheapest
    choices = []
    for costs, alpha, low in zip(table, alphas, least, strict=True):
        steps = [math.ceil((cost - low) / step - 1e-9) for cost in costs]
        rows_CG = np.full((len(costs), points), np.inf)
        for j, up in enumerate(steps):
            if up < points:
                rows_CG[j, up:] = best_G[: points - up] + (max(alpha) - alpha[j])
        order = sorted(range(len(costs)), key=lambda j: (costs[j], j))  # argmin takes the first: the cheapest
        picked_G = rows_CG[order].argmin(0)
        best_G = rows_CG[order].min(0)
        choices.append((np.array(order)[picked_G], steps))
    at = int(np.flatnonzero(best_G <= best_G[-1])[0])  # the least budget that reaches the least loss
    path = []
    for chosen_G, steps in reversed(choices):
        path.append(int(chosen_G[at]))
        at -= steps[path[-1]]
    return tuple(reversed(path))


def _cheapest(table: CostTable, alphas: Sequence[Sequence[float]]) -> LayerPath:
    return tuple(
        min(range(len(costs)), key=lambda j: (costs[j], -alpha[j], j))
        for costs, alpha in zip(table, alphas, strict=True)
    )


class PathsBetween:
    """The paths between two costs, counted on a grid, to draw from: all of them are about equally likely.

    Args:
        table: the cost of every candidate of every layer.
        low: the least that the layers may cost together.
        high: the most.
    """

    def __init__(self, table: CostTable, low: int, high: int) -> None:
        least = [min(costs) for costs in table]
        room = high - sum(least)
        step = max(room / COARSE, 1.0)
        self.points = max(0, math.floor(room / step) + 1)
        self.first = max(0, math.ceil((low - sum(least)) / step))
        self.steps = [[round((cost - own) / step) for cost in costs] for costs, own in zip(table, least, strict=True)]
        self.ways = [np.ones(1)]  # of the layers behind each, by what they cost; only ratios count
        for steps in reversed(self.steps):
            ways_G = np.zeros(self.points)
            for up in steps:
                behind_G = self.ways[-1][: max(0, self.points - up)]
                ways_G[up : up + len(behind_G)] += behind_G
            self.ways.append(ways_G / max(ways_G.max(initial=0.0), 1.0))
        self.ways.reverse()

    def draw(self, chance: Callable[[], float]) -> LayerPath | None:
        """Return a path that costs within a grid step a layer of what was asked for; None: there is none.

        Args:
            chance: a random number from 0 to 1 at each call.
        """
        if not self.ways[0][self.first :].any():
            return None
        at = self.first + _pick(self.ways[0][self.first :], chance())
        path = []
        for steps, ways_G in zip(self.steps, self.ways[1:], strict=True):
            weights = [ways_G[at - up] if 0 <= at - up < len(ways_G) else 0.0 for up in steps]
            path.append(_pick(np.array(weights), chance()))
            at -= steps[path[-1]]
        return tuple(path)


def _pick(weights: Series, chance: float) -> int:
    """Return an index with a probability in proportion to its weight."""
    summed = weights.cumsum()
    return int(np.searchsorted(summed, chance * summed[-1], side="right").clip(max=np.flatnonzero(weights)[-1]))


def check(table: CostTable, alphas: Sequence[Sequence[float]]) -> None:
    """Raise an `FnaError` unless there is a finite number for every candidate of the table."""
    if len(alphas) != len(table):
        raise FnaError(f"{len(alphas)} layers of alphas for a search space of {len(table)} layers")
    for i, (costs, row) in enumerate(zip(table, alphas, strict=True)):
        if len(row) != len(costs) or not all(map(math.isfinite, row)):
            raise FnaError(f"the alphas of layer {i} are {list(row)}; expected {len(costs)} finite numbers")


def softmax(alpha: Sequence[float]) -> list[float]:
    """Return probabilities from logits."""
    weights = [math.exp(a - max(alpha)) for a in alpha]
    return [weight / math.fsum(weights) for weight in weights]
