"""The forms that a target may have besides its architecture, and what they cost: head, input scale, output stride."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import torch

from fna.arch import Arch, SuperArch
from fna.arch.target import Form
from fna.config import Config
from fna.config.budgets import UNITS, Budget
from fna.cost.costs import Costs
from fna.cost.units import with_unit
from fna.errors import FnaError
from fna.nets.network import Model
from fna.nets.slim import SlimHead
from fna.nets.supernet import SuperBackbone, restrided
from fna.progress import say
from fna.tasks.problem import Problem
from fna.training.compute import Compute

SEEDS = Form()  # the recipe's own
MEASURED = ("measured", "halving")  # choosers that score candidates, in any form, in place of learning alphas


def forms_of(config: Config) -> tuple[Form, ...]:
    """Return the forms that the search chooses from, each once.

    Every input scale with every output stride, head width and tower depth of the settings; alphas tell blocks apart.

    Raises:
        FnaError: the seed's own is not among them.
    """
    space, task = config.space, config.task
    if config.search.chooser not in MEASURED:
        return (SEEDS,)
    own = {"input_scales": 1.0, "head_channels": 1.0, "output_strides": task.stride, "tower_depths": task.depth}
    for key, seeds in own.items():
        given = getattr(space, key)
        if given and seeds not in given:
            raise FnaError(
                f"space.{key} is {list(given)}; expected {seeds:g} among them, the seed's own, to which the others are "
                "compared: add it"
            )
    strides = [None if stride == task.stride else stride for stride in space.output_strides or (task.stride,)]
    depths = [None if depth == task.depth else depth for depth in space.tower_depths or (task.depth,)]
    forms = product(space.input_scales, strides, space.head_channels, depths)
    return tuple(dict.fromkeys(Form(width, scale, stride, depth) for scale, stride, width, depth in forms))


def allowed(budget: Budget, problem: Problem, space: SuperArch, costs: Costs, name: str) -> int:
    """Return what a budget allows the whole network, in whatever form of the settings.

    Args:
        budget: what it may cost.
        problem: what the networks are for, with the forms of ``space``.
        space: undilated.
        costs: of the seed's form, in the unit of the budget.
        name: the setting it comes from, for messages.

    Raises:
        FnaError: no network of any form is within the budget, or all of them are far below it.
    """
    forms = forms_of(problem.config)
    lows, highs = zip(*(problem.at(form).costs(space, UNITS[costs.unit]).range for form in forms), strict=True)
    return costs.limit(budget, name, (min(lows), max(highs)))


@dataclass(frozen=True)
class Forms:
    """Forms to choose from.

    Args:
        choices: those at which some network is within the budget.
        costs: of the space's networks by form; that of the seed's form is always there.
    """

    choices: tuple[Form, ...]
    costs: Mapping[Form, Costs]

    @classmethod
    def of(cls, problem: Problem, costs: Costs, cost: str, space: SuperArch, limit: int | None) -> Forms:
        """Count the networks of a space in every form of the settings.

        Args:
            problem: what they are for, with the forms of ``space``.
            costs: those of the seed's form.
            cost: name in `cost.costs.COSTS` of what is counted.
            space: undilated.
            limit: the most a network may cost, which some network meets; None: anything.
        """
        wanted = forms_of(problem.config)
        table = {SEEDS: costs} | {form: problem.at(form).costs(space, cost) for form in wanted if form != SEEDS}
        choices = tuple(form for form in wanted if limit is None or table[form].range[0] <= limit)
        for scale in dict.fromkeys(form.scale for form in wanted):
            if not any(form.scale == scale for form in choices):
                cheapest = min(table[form].range[0] for form in wanted if form.scale == scale)
                say(
                    f"search: no network is within the budget at input scale {scale:g} "
                    f"(the cheapest takes {with_unit(cheapest, costs.unit)})"
                )
        return cls(choices, table)

    def within(self, limit: int | None) -> tuple[Form, ...]:
        """Return the forms in which some network costs no more than a limit."""
        return tuple(form for form in self.choices if limit is None or self.costs[form].range[0] <= limit)

    def draw(self, limit: int | None, generator: torch.Generator) -> Form:
        """Draw a scale, each as often as the others, then a head and a stride that are to be had there in a limit."""
        choices = self.within(limit)
        scales = list(dict.fromkeys(form.scale for form in choices))
        scale = scales[int(torch.randint(len(scales), (), generator=generator))]
        there = [form for form in choices if form.scale == scale]
        return there[int(torch.randint(len(there), (), generator=generator))]


def slim_heads(model: Model, problem: Problem, seed: Arch, forms: Forms, compute: Compute) -> dict[Form, SlimHead]:
    """Return a super network's heads of other widths, depths and rates, slices of its own, by form at scale 1."""
    wanted = dict.fromkeys(form._replace(scale=1.0) for form in forms.choices)
    heads = {form: problem.at(form).meta_head(seed) for form in wanted if form != SEEDS}
    return {form: SlimHead(model.head, compute.like_placed(head)) for form, head in heads.items()}


def strided_backbones(
    backbone: SuperBackbone, problem: Problem, space: SuperArch, forms: Forms, compute: Compute
) -> dict[int | None, SuperBackbone]:
    """Return a super network's backbone at every output stride, made of the weights and norms of its own."""
    found: dict[int | None, SuperBackbone] = {None: backbone}
    for form in forms.choices:
        if form.output_stride not in found:
            strided = restrided(backbone, problem.at(form).prepared(space))
            found[form.output_stride] = compute.mended(strided)
    return found
