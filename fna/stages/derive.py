"""Derivation: from what a search found to a network within a budget, as often as one likes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fna.arch import Arch
from fna.arch.target import Target
from fna.config.budgets import Budget, parse_budget
from fna.cost.costs import Costs, find_measure
from fna.cost.madds import Cost
from fna.errors import pick
from fna.nets.weights import Network
from fna.searching.choosing import CHOOSERS, Choice
from fna.searching.forms import allowed
from fna.searching.found import Found, Pool
from fna.stages.expand import remap_network
from fna.tasks.problem import Problem


@dataclass(frozen=True, eq=False)
class Derived(Network[Arch]):
    """A network that was chosen, with the super network's weights.

    Args:
        choice: the path, and what the budget overruled.
        costs: of the space it was chosen from.
        budget: as it was given; None: there was none.
        limit: the most it might cost, in their unit; None: anything.
        cost: parameters and MAdds of the whole network.
    """

    choice: Choice | None = None
    costs: Costs | None = None
    budget: Budget | None = None
    limit: int | None = None
    cost: Cost | None = None


def derive(
    found: Found,
    problem: Problem,
    budget: Budget | str | float | None = None,
    *,
    chooser: str | None = None,
    like: Target | None = None,
) -> Derived:
    """Choose the best architecture within a budget and collect its weights (FNA++ section 3.2.3).

    Args:
        found: what a search ended with.
        problem: what the network is for.
        budget: such as ``"0.9x"``, ``"2.4 GMAdds"``, ``"3 Mparams"``; None: ``derive.budget`` of the settings, and if
            that is null ``search.budget``.
        chooser: a name of `CHOOSERS`; None: ``derive.chooser`` of the settings, and if that is null the search's.
        like: a target whose head width, input scale and output stride this one is counted with and gets; None: the
            chooser's.

    Raises:
        FnaError: no architecture of the space is within the budget.
    """
    config = problem.config
    if budget is None:
        budget = config.derive.budget if config.derive.budget is not None else config.search.budget
    budget = parse_budget(budget) if isinstance(budget, str | int | float) else budget
    unit = budget.cost if budget else "madds"
    space, limit = found.network.arch, None
    costs = problem.costs(space, unit)
    if like:
        costs = replace(problem.at(like).costs(space, unit), seed=costs.seed)
        limit = costs.limit(budget, "the budget") if budget else None
    elif budget:
        limit = allowed(budget, problem, space, costs, "the budget")
    if found.unit != costs.unit or unit == "latency":
        found = _recounted(found, problem, unit)
    choose = pick(CHOOSERS, chooser or config.derive.chooser or found.chooser, "chooser")
    choice = choose(found, costs, limit, config.engine.rng_seed)
    if like:
        choice = replace(choice, target=replace(choice.target, **like.form._asdict()))
    network = remap_network(found.network, choice.target, problem)
    cost = problem.at(network).cost(network.arch)
    return Derived(**vars(network), choice=choice, costs=costs, budget=budget, limit=limit, cost=cost)


def _recounted(found: Found, problem: Problem, cost: str) -> Found:
    """Return what a search found with its scored candidates, if it has some, counted in another way."""
    if not isinstance(found.evidence, Pool):
        return found
    space, candidates = found.network.arch, found.evidence.candidates
    costs = {form: problem.at(form).costs(space, cost) for form in dict.fromkeys(c.form for c in candidates)}
    counted = tuple(replace(c, cost=costs[c.form].whole(c.path)) for c in candidates)
    return replace(found, evidence=Pool(counted), unit=find_measure(cost).unit)
