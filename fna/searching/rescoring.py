"""Further budgets for a super network that is trained: candidates are scored anew, the best tried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fna.config.budgets import Budget
from fna.cost.costs import Costs
from fna.nets.weights import load_weights
from fna.searching.alphas import SearchLoop
from fna.searching.forms import allowed
from fna.searching.found import Found
from fna.searching.measured import measure
from fna.tasks.problem import Problem
from fna.training.compute import Compute


def score_again(
    found: Found, problem: Problem, data: Any, compute: Compute, budget: Budget, file: Path | None
) -> Found:
    """Score candidates of a trained super network at another budget than the search's.

    Args:
        found: what the search ended with.
        problem: what the networks are for, with the settings of the search.
        data: the training split.
        compute: hardware and processes.
        budget: what the candidates may cost.
        file: where scores are kept until the choice is made.

    Returns:
        The same super network with these candidates as evidence, the seed among them; the time is that of both.
    """
    costs = problem.costs(found.network.arch, budget.cost)
    limit = allowed(budget, problem, found.network.arch, costs, "the budget")
    loop = trained_loop(found, problem, data, compute, costs, limit)
    pool, warnings, spent = measure(loop, file)
    held = {"text": str(budget), "cost": limit}
    return replace(found, evidence=pool, unit=costs.unit, budget=held, spent=found.spent + spent, warnings=warnings)


def trained_loop(
    found: Found, problem: Problem, data: Any, compute: Compute, costs: Costs, limit: int | None
) -> SearchLoop:
    """Return the loop of a search that is over, for scores; see `SearchLoop` for the arguments."""
    loop = SearchLoop(found.network, problem, data, compute, costs, limit)
    load_weights(loop.model, found.network.state, "the trained super network")
    return loop
