"""From architecture parameters (alphas) to one architecture: argmax as in the article, or the best one in a budget.

With a budget the derived path is the solution of a multiple-choice knapsack: of all paths whose exact cost is within
the budget, the one with the largest total log-probability (the least loss), and of those the cheapest. Dynamic
programming over the layers keeps (cost, loss) states instead of rounding costs to a grid, and drops what cannot win:

- a state that another one beats in cost and loss;
- a state whose best completion falls short of a path already known. The completion is bounded by the linear relaxation
  of the remaining layers, whose greedy solutions are also where the known paths come from.

Nothing is lost by it. A candidate's loss is how far its alpha is below the layer's largest (the softmax's denominator
is the same for every path), as a whole multiple of 2^-40: sums, comparisons and bounds are integer arithmetic. For
alphas from a search this takes a fraction of a second; only alphas that are proportional to the costs, to four digits,
make it slow. No torch here.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from fna.arch import Arch, LayerPath, SuperArch
from fna.cost.madds import CostTable, path_cost
from fna.errors import FnaError

UNIT = 2**40  # losses are whole multiples of 1 / UNIT

Option = tuple[int, int]  # cost and loss of a candidate
State = tuple[int, int, LayerPath]  # cost, loss and choices of the layers so far


@dataclass(frozen=True)
class Disagreement:
    """A layer where the budget overrules the argmax.

    Args:
        layer: ``STAGE.LAYER``.
        argmax: label of the likeliest candidate.
        chosen: label of the candidate taken instead.
        argmax_probability: softmax(alpha) of the likeliest.
        chosen_probability: softmax(alpha) of the one taken.
    """

    layer: str
    argmax: str
    chosen: str
    argmax_probability: float
    chosen_probability: float


@dataclass(frozen=True)
class Derived:
    """A derived architecture.

    Args:
        path: the candidate of every layer.
        arch: the architecture of `path`.
        cost: its MAdds, by the cost table.
        argmax_path: the path without a budget.
        argmax_cost: its MAdds.
        disagreements: the layers where the two differ.
    """

    path: LayerPath
    arch: Arch
    cost: int
    argmax_path: LayerPath
    argmax_cost: int
    disagreements: tuple[Disagreement, ...]


def derive(
    super_arch: SuperArch, alphas: Sequence[Sequence[float]], table: CostTable, budget: int | None = None
) -> Derived:
    """Choose one candidate per layer.

    Args:
        super_arch: the search space.
        alphas: one number per candidate of every layer, fixed layers included.
        table: the cost of the same candidates, as `cost.cost_table` gives it.
        budget: the most MAdds the layers of `table` may have together (so without stem and head), or None for the
            argmax, whatever it costs. Ties go to the cheaper candidate.

    Raises:
        FnaError: no path is within the budget, or the alphas do not belong to the space.
    """
    names = [f"{s}.{n}" for (s, n), _ in super_arch.layers()]
    layers = [candidates for _, candidates in super_arch.layers()]
    _check(names, [len(candidates) for candidates in layers], alphas, table)
    argmax_path = tuple(
        min(range(len(costs)), key=lambda j: (-alpha[j], costs[j], j))
        for alpha, costs in zip(alphas, table, strict=True)
    )
    argmax_cost = path_cost(table, argmax_path)
    path = argmax_path
    if budget is not None and argmax_cost > budget:
        _check_budget(table, budget)
        path = _best_path([_options(*row) for row in zip(table, alphas, strict=True)], budget)
    disagreements = []
    for name, candidates, alpha, a, b in zip(names, layers, alphas, argmax_path, path, strict=True):
        if a != b:
            p = _softmax(alpha)
            disagreements.append(Disagreement(name, candidates[a].label, candidates[b].label, p[a], p[b]))
    cost = path_cost(table, path)
    return Derived(path, super_arch.path_arch(path), cost, argmax_path, argmax_cost, tuple(disagreements))


def _check(
    names: Sequence[str], widths: Sequence[int], alphas: Sequence[Sequence[float]], table: Sequence[Sequence[int]]
) -> None:
    for what, rows in (("alphas", alphas), ("costs", table)):
        if len(rows) != len(names):
            raise FnaError(f"{len(rows)} layers of {what} for a search space of {len(names)} layers")
        for name, width, row in zip(names, widths, rows, strict=True):
            if len(row) != width or not all(map(math.isfinite, row)):
                raise FnaError(f"the {what} of layer {name} are {list(row)}; expected {width} finite numbers")


def _check_budget(table: CostTable, budget: int) -> None:
    least, most = sum(map(min, table)), sum(map(max, table))
    if budget < least:
        raise FnaError(
            f"no architecture of the search space fits a budget of {budget / 1e9:.6g} B MAdds for its layers: "
            f"they cost from {least / 1e9:.6g} B to {most / 1e9:.6g} B; raise search.budget or add cheaper candidates"
        )


def _softmax(alpha: Sequence[float]) -> list[float]:
    weights = [math.exp(a - max(alpha)) for a in alpha]
    return [weight / math.fsum(weights) for weight in weights]


def _options(costs: Sequence[int], alpha: Sequence[float]) -> list[Option]:
    return [(cost, round((max(alpha) - a) * UNIT)) for cost, a in zip(costs, alpha, strict=True)]


def _best_path(layers: Sequence[Sequence[Option]], budget: int) -> LayerPath:
    """Return the path of least loss within `budget`, then of least cost; some path must be within it."""
    span = [max(cost for cost, _ in options) - min(cost for cost, _ in options) for options in layers]
    order = sorted(range(len(layers)), key=lambda i: -span[i])  # big decisions first: the bounds bite sooner
    layers = [layers[i] for i in order]
    completions = _completions(layers)
    best = completions[0].bounds(budget)[1]  # loss of a path known to exist
    states: list[State] = [(0, 0, ())]
    for options, completion in zip(layers, completions[1:], strict=True):
        grown = sorted(
            (cost + option_cost, loss + option_loss, (*path, choice))
            for cost, loss, path in states
            for choice, (option_cost, option_loss) in enumerate(options)
            if cost + option_cost + completion.costs[0] <= budget
        )
        front: list[tuple[int, State]] = []  # states that none beats, each after the least loss it can lead to
        for state in grown:
            if not front or state[1] < front[-1][1][1]:
                lower, upper = completion.bounds(budget - state[0])
                front.append((state[1] + lower, state))
                best = min(best, state[1] + upper)
        states = [state for lower, state in front if lower <= best]
    choices = dict(zip(order, states[-1][2], strict=True))
    return tuple(choices[i] for i in range(len(order)))


@dataclass(frozen=True)
class _Completion:
    """The linear relaxation of the layers still to choose, solved for every budget at once.

    Starting from the cheapest candidates, upgrades are bought in order of gain per cost. Between two of these points
    the relaxation buys the next upgrade in part.

    Args:
        costs: the cost after 0, 1, 2, ... upgrades.
        losses: the loss there; each is reached by a real choice of candidates.
    """

    costs: list[int]
    losses: list[int]

    def bounds(self, budget: int) -> tuple[int, int]:
        """Return a loss that no completion within `budget` is below, and one that some completion reaches."""
        k = bisect_right(self.costs, budget) - 1
        reached = self.losses[k]
        if k + 1 == len(self.costs):
            return reached, reached
        gain, price = reached - self.losses[k + 1], self.costs[k + 1] - self.costs[k]
        return reached - (budget - self.costs[k]) * gain // price, reached


def _completions(layers: Sequence[Sequence[Option]]) -> list[_Completion]:
    """Return the relaxation of layers i, i+1, ..., for every i up to `len(layers)` (nothing left to choose)."""
    hulls = [_hull(options) for options in layers]
    upgrades = [
        (i, b[0] - a[0], b[1] - a[1])  # layer, cost, loss (negative)
        for i, hull in enumerate(hulls)
        for a, b in pairwise(hull)
    ]
    upgrades.sort(key=lambda upgrade: Fraction(upgrade[2], upgrade[1]))
    completions = []
    for i in range(len(layers) + 1):
        points = [(sum(hull[0][0] for hull in hulls[i:]), sum(hull[0][1] for hull in hulls[i:]))]
        for layer, cost, loss in upgrades:
            if layer >= i:
                points.append((points[-1][0] + cost, points[-1][1] + loss))
        completions.append(_Completion([cost for cost, _ in points], [loss for _, loss in points]))
    return completions


def _hull(options: Sequence[Option]) -> list[Option]:
    """Return the lower convex hull of (cost, loss), from the cheapest option to the one of least loss."""
    hull: list[Option] = []
    for cost, loss in sorted(options):
        if hull and loss >= hull[-1][1]:
            continue
        while len(hull) > 1:
            (c0, l0), (c1, l1) = hull[-2:]
            if (l1 - loss) * (c1 - c0) < (l0 - l1) * (cost - c1):
                break
            hull.pop()
        hull.append((cost, loss))
    return hull
