"""The likeliest architecture within a budget: a multiple-choice knapsack over the layers. No torch here.

A candidate's loss is how far its alpha is below the layer's largest: the softmax's denominator is the same for every
path. Dynamic programming keeps, for every point of a grid of budgets, the least loss that the layers so far can have;
one table answers all budgets. Costs are rounded up to the grid, so that a path is never above its budget; with `GRID`
points what is given away is at most a `GRID`-th of the span of costs a layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fna.arch import LayerPath
from fna.cost.madds import CostTable
from fna.errors import FnaError

GRID = 2**16


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
