"""How a target is chosen from what a search found, within a budget; `CHOOSERS` at the foot names the ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from fna.arch import Arch, LayerPath, SuperArch
from fna.arch.cutting import cut_by_hand, narrowed, tapped
from fna.arch.target import Target
from fna.cost.costs import Costs
from fna.errors import FnaError
from fna.rng import generator
from fna.searching.found import Alphas, Candidate, Found, Pool, choose, choose_finalist
from fna.searching.knapsack import PathsBetween, best_path, softmax

TRIES = 10_000  # random paths drawn until one is within the budget
PLAIN_TRIES = 1_000  # of these, drawn from the whole space; where such paths are rare the others are drawn among them


class NoControlError(FnaError):
    """A control that a chooser stands for does not exist within the budget."""


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
class Choice:
    """A chosen path, and what would have been chosen without a budget.

    Args:
        path: the candidate of every layer.
        target: its architecture, head width, scale and output stride.
        cost: of the whole network, in the unit of the `Costs`.
        free_path: the path without a budget.
        free_cost: its cost.
        disagreements: the layers where the two differ, if alphas chose.
    """

    path: LayerPath
    target: Target
    cost: int
    free_path: LayerPath
    free_cost: int
    disagreements: tuple[Disagreement, ...] = ()


Chooser = Callable[[Found, Costs, int | None, int], Choice]


def choose_by_alphas(found: Found, costs: Costs, limit: int | None, rng_seed: int) -> Choice:
    """Take the likeliest path within the budget; without a budget the argmax of each layer, as the article does.

    Args:
        found: its evidence are alphas.
        costs: of its space.
        limit: the most the whole network may cost, in their unit; None: anything. Ties go to the cheaper.
        rng_seed: not used.

    Raises:
        FnaError: the evidence is of another kind or of another space, or no path is within the budget.
    """
    arch = found.network.arch
    if not isinstance(found.evidence, Alphas):
        raise FnaError(
            "chooser 'alphas' needs a search that learned alphas; this one scored candidates: --derive.chooser measured"
        )
    alphas = found.evidence.values
    free = argmax_path(alphas, costs)
    path = free
    if limit is not None and costs.whole(free) > limit:
        table, room = costs.added(limit)
        path = best_path(table, alphas, room)
    rows = []
    for ((s, n), candidates), alpha, a, b in zip(arch.layers(), alphas, free, path, strict=True):
        if a != b:
            p = softmax(alpha)
            rows.append(Disagreement(f"{s}.{n}", candidates[a].label, candidates[b].label, p[a], p[b]))
    target = Target(arch.path_arch(path))
    return Choice(path, target, costs.whole(path), free, costs.whole(free), tuple(rows))


def argmax_path(alphas: Sequence[Sequence[float]], costs: Costs) -> LayerPath:
    """Return the likeliest candidate of each layer; ties go to the cheaper one, then to the first."""
    rows = zip(alphas, costs.table, strict=True)
    return tuple(min(range(len(row)), key=lambda j: (-alpha[j], row[j], j)) for alpha, row in rows)


def choose_random(found: Found, costs: Costs, limit: int | None, rng_seed: int) -> Choice:
    """Take a random path that spends 90 to 100 % of the budget: a control (FNA++ section 5.5).

    All such paths are about equally likely, however few of all paths they are. A peak is not spent: within is enough.

    Raises:
        FnaError: none was met.
    """
    arch, draw = found.network.arch, generator(rng_seed, "random architecture")
    paths = None
    if limit is not None:
        table, room = costs.added(limit)
        paths = PathsBetween(table, room - limit + int(0.9 * limit), room)

    def chance() -> float:
        return float(torch.rand((), generator=draw, dtype=torch.float64))

    for turn in range(TRIES):
        path: LayerPath | None = tuple(int(torch.randint(len(c), (), generator=draw)) for _, c in arch.layers())
        if paths and turn >= PLAIN_TRIES:
            path = paths.draw(chance)
        if path is None:
            break
        if limit is None or 0.9 * limit <= costs.charged(path, limit) <= limit:
            cost = costs.whole(path)
            return Choice(path, Target(arch.path_arch(path)), cost, path, cost)
    raise FnaError(
        "no random architecture that was drawn spends 90 to 100 % of the budget; choose another --derive.budget"
    )


def choose_measured(found: Found, costs: Costs, limit: int | None, rng_seed: int) -> Choice:
    """Take the best candidate within the budget on held-out images: by the task's metric, where there were finals.

    Raises:
        FnaError: the evidence are no scored candidates, or none of them is within the budget.
    """
    return _best_scored(found, limit, choose)


def choose_halving(found: Found, costs: Costs, limit: int | None, rng_seed: int) -> Choice:
    """Take the best by the task's metric of candidates that were trained for real, to the end (successive halving).

    The losses of the others are of shorter trainings.

    Raises:
        FnaError: as `choose_measured`.
    """
    return _best_scored(found, limit, choose_finalist)


def _best_scored(
    found: Found, limit: int | None, best: Callable[[Sequence[Candidate], int | None], Candidate | None]
) -> Choice:
    if not isinstance(found.evidence, Pool):
        raise FnaError("chooser 'measured' needs a search that scored candidates; --derive.chooser alphas")
    candidates = found.evidence.candidates
    chosen, free = best(candidates, limit), best(candidates, None)
    if chosen is None or free is None:
        raise FnaError(
            f"none of the {len(candidates)} scored candidates is within the budget; raise --derive.budget, "
            "or search with search.smaller_budgets"
        )
    target = Target(found.network.arch.path_arch(chosen.path), *chosen.form)
    return Choice(chosen.path, target, chosen.cost, free.path, free.cost)


def choose_cut(found: Found, costs: Costs, limit: int | None, rng_seed: int) -> Choice:
    """Cut the seed by hand to 90 to 100 % of the budget: a control (see `cut_by_hand`).

    Raises:
        NoControlError: no such cut is in the space.
    """
    space = found.network.arch
    if limit is None or costs.whole(space.seed_path()) <= limit:
        return _of_arch(space.seed, space, costs)  # there is nothing to cut
    try:
        count = partial(charged, costs, space, limit)
        arch = cut_by_hand(space.seed, space, limit, count, tapped(space))
    except FnaError as error:  # a layer of it is no candidate
        raise NoControlError(str(error)) from error
    if arch is None:
        raise NoControlError("no cut of the seed spends 90 to 100 % of the budget; choose another --derive.budget")
    return _of_arch(arch, space, costs)


def choose_narrowed(found: Found, costs: Costs, limit: int | None, rng_seed: int) -> Choice:
    """Take the seed with the next smaller expansion in all layers, such as 3 in place of 6: a control.

    Raises:
        NoControlError: it costs more than the budget.
    """
    space = found.network.arch
    choice = _of_arch(narrowed(space.seed, space, tapped(space)), space, costs)
    if limit is not None and choice.cost > limit:
        raise NoControlError("chooser 'narrowed' costs more than the budget; raise --derive.budget")
    return choice


def charged(costs: Costs, space: SuperArch, limit: int, arch: Arch) -> int:
    """Return what an architecture of a space takes of a limit; see `Costs.charged`."""
    return costs.charged(space.path_of(arch), limit)


def _of_arch(arch: Arch, space: SuperArch, costs: Costs) -> Choice:
    path = space.path_of(arch)
    return Choice(path, Target(space.path_arch(path)), costs.whole(path), path, costs.whole(path))


CHOOSERS: dict[str, Chooser] = {
    "alphas": choose_by_alphas,
    "random": choose_random,
    "measured": choose_measured,
    "halving": choose_halving,
    "cut": choose_cut,
    "narrowed": choose_narrowed,
}
