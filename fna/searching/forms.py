"""The forms that a target may have besides its architecture: head widths and input scales, with what each costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fna.arch import Arch, SuperArch
from fna.arch.target import Form
from fna.config.sections import SpaceConfig
from fna.cost.costs import Costs
from fna.cost.units import with_unit
from fna.errors import FnaError
from fna.nets.network import Model
from fna.nets.slim import SlimHead
from fna.progress import say
from fna.tasks.problem import Problem
from fna.training.compute import Compute

SEEDS = Form()  # the recipe's own head and input


def forms_of(space: SpaceConfig) -> tuple[Form, ...]:
    """Return every input scale with every head width of the settings, each once."""
    scales, widths = (dict.fromkeys(values) for values in (space.input_scales, space.head_channels))
    return tuple(Form(width, scale) for scale in scales for width in widths)


@dataclass(frozen=True)
class Forms:
    """Head widths and input scales to choose from.

    Args:
        choices: those at which some network is within the budget.
        costs: of the space's networks by form; that of the seed's form is always there.
    """

    choices: tuple[Form, ...]
    costs: Mapping[Form, Costs]

    @classmethod
    def of(cls, problem: Problem, costs: Costs, cost: str, space: SuperArch, limit: int | None, one: bool) -> Forms:
        """Count the networks of a space in every form of the settings.

        Args:
            problem: what they are for, with ``space.input_scales`` and ``space.head_channels``.
            costs: those of the seed's form.
            cost: name in `cost.costs.COSTS` of what is counted.
            space: undilated.
            limit: the most a network may cost; None: anything.
            one: whether the seed's form is the only one.

        Raises:
            FnaError: no network is within the limit in any form.
        """
        wanted = (SEEDS,) if one else forms_of(problem.config.space)
        table = {SEEDS: costs} | {form: problem.at(form).costs(space, cost) for form in wanted if form != SEEDS}
        choices = tuple(form for form in wanted if limit is None or _least(table[form]) <= limit)
        for scale in dict.fromkeys(form.scale for form in wanted):
            if not any(form.scale == scale for form in choices):
                cheapest = min(_least(table[form]) for form in wanted if form.scale == scale)
                say(
                    f"search: no network is within the budget at input scale {scale:g} "
                    f"(the cheapest takes {with_unit(cheapest, costs.unit)})"
                )
        if not choices:
            raise FnaError("space.input_scales: no network is within the budget at any of them; add 1 or a smaller one")
        return cls(choices, table)

    def within(self, limit: int | None) -> tuple[Form, ...]:
        """Return the forms in which some network costs no more than a limit."""
        return tuple(form for form in self.choices if limit is None or _least(self.costs[form]) <= limit)

    def draw(self, limit: int | None, generator: torch.Generator) -> Form:
        """Draw a scale, each as often as the others, then a head width that is to be had there within a limit."""
        choices = self.within(limit)
        scales = list(dict.fromkeys(form.scale for form in choices))
        scale = scales[int(torch.randint(len(scales), (), generator=generator))]
        there = [form for form in choices if form.scale == scale]
        return there[int(torch.randint(len(there), (), generator=generator))]


def _least(costs: Costs) -> int:
    """Return the cost of the cheapest network."""
    return sum(map(min, costs.table)) + costs.other


def slim_heads(model: Model, problem: Problem, seed: Arch, forms: Forms, compute: Compute) -> dict[float, SlimHead]:
    """Return the narrower heads of a super network by width, made of slices of its own."""
    widths = dict.fromkeys(form.head_width for form in forms.choices if form.head_width != 1)
    heads = {width: problem.at(Form(width)).meta_head(seed) for width in widths}
    return {width: SlimHead(model.head, compute.like_placed(head)) for width, head in heads.items()}
