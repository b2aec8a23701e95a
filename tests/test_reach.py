"""Budgets that no network meets in the recipe's own form, but some do with a smaller input or a narrower head."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_deeper
from tiny import search_tiny
from tiny_detection import detection_config, write_squares

import fna
from fna.arch.target import Form
from fna.config.budgets import parse_budget
from fna.errors import FnaError
from fna.searching.forms import allowed
from fna.stages.expand import expand

SEARCH = (
    *("task.model=retinanet", "search.sampler=anchored", "search.chooser=measured", "search.held_out=0.34"),
    *("space.input_scales=[0.5, 1]", "space.head_channels=[0.25, 1]", "search.candidates=4", "search.recalibrate=1"),
)


def test_a_search_goes_where_the_budget_can_be_met_and_alphas_cannot(tmp_path: Path) -> None:
    squares = write_squares(tmp_path / "squares")
    with tiny_deeper.opened(detection_config(squares, *SEARCH[:4], "search.chooser=alphas")) as job:
        space = expand(job.seed, job.problem).arch
        costs = job.problem.costs(space)
        budget = parse_budget(int(0.8 * costs.range[0]))
        with pytest.raises(FnaError, match=r"^search\.budget .* but this space reaches from"):
            allowed(budget, job.problem, space, costs, "search.budget")
    with tiny_deeper.opened(detection_config(squares, *SEARCH, f"search.budget={budget}")) as job:
        target = fna.derive(search_tiny(job, tmp_path / "found"), job.problem)
        assert target.form != Form()
        assert fna.count(target, job.problem).madds <= budget.amount
