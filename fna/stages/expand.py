"""Network expansion: from a seed to a search space with remapped weights, and what everything in it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fna.arch import Arch, SuperArch
from fna.arch.spaces import task_space
from fna.config import parse_budget
from fna.cost.madds import Cost, CostTable, cost_table, model_cost, path_cost
from fna.errors import FnaError
from fna.remapping import Row, Strategy, remap, summarise
from fna.training.setting import Setting, State, backbone_only, put, take


@dataclass(frozen=True)
class Costs:
    """What the networks of a space cost at one input size (paper rule).

    Args:
        size_hw: that size.
        table: MAdds of each candidate of each layer.
        other: MAdds outside the table: stem and head.
        seed: the whole network on the seed's architecture.
        budget: MAdds of the table's layers that ``search.budget`` leaves, or None.
    """

    size_hw: tuple[int, int]
    table: CostTable
    other: int
    seed: Cost
    budget: int | None


@dataclass(frozen=True)
class Expanded:
    """The super network: its space (undilated), backbone weights, where they came from, and costs."""

    arch: SuperArch
    state: dict[str, Tensor]
    report: Sequence[Row]
    costs: Costs
    warnings: tuple[str, ...]


def expand(setting: Setting) -> Expanded:
    """Grow the seed into a super network and remap its weights (FNA++ section 3.2.1).

    Raises:
        FnaError: the seed does not fit the space, or no architecture meets the budget.
    """
    seed, config = setting.seed, setting.config
    taps = setting.task.prepare(seed.arch, config.task).taps
    arch = task_space(seed.arch, setting.task.layers, taps, **config.space.model_dump())
    costs = count_costs(arch, setting)
    remapped = remap(seed.arch, seed_state(setting), arch, strategy(setting), config.engine.rng_seed)
    return Expanded(arch, remapped.state, remapped.report, costs, dead_channels(remapped.report, setting))


def dead_channels(report: Sequence[Row], setting: Setting) -> tuple[str, ...]:
    """Warn of new channels that never get a gradient because both sides of them are 0 (growth as the article has it).

    Raises:
        FnaError: there are some, and ``engine.strict`` is on.
    """
    grown = summarise(report)["rules"].get("growth zero")
    if not grown:
        return ()
    warning = (
        f"remap.growth 'zero' leaves the new channels of {grown['layers']} layers ({grown['where']}) without gradient: "
        "they never learn; use --remap.growth preserve"
    )
    if setting.config.engine.strict:
        raise FnaError(warning)
    return (warning,)


def seed_state(setting: Setting) -> dict[str, Tensor]:
    """Return the seed's weights, or fresh ones for a seed without any."""
    if setting.seed.state is not None:
        return setting.seed.state
    return take(setting.build(setting.seed.arch).state_dict(), "backbone")


def strategy(setting: Setting) -> Strategy:
    """Return the remapping strategy of the configuration."""
    return Strategy(**setting.config.remap.model_dump())


def remap_model(source: Arch | SuperArch, state: State, target: Arch, setting: Setting) -> dict[str, Tensor]:
    """Remap a task network's weights: the backbone's by the rules, the head's (if there) as they are.

    Args:
        source: architecture of `state`; a super network gives each layer's chosen candidate (FNA++).
        state: ``backbone.*`` and, maybe, ``head.*``.
        target: the architecture to fill.
        setting: gives strategy and seed of new weights.
    """
    backbone = remap(source, take(state, "backbone"), target, strategy(setting), setting.config.engine.rng_seed).state
    return {**put(backbone_only(backbone), "backbone"), **put(take(state, "head"), "head")}


def image_size(setting: Setting) -> tuple[int, int]:
    """Return the height and width that networks are counted at."""
    return setting.config.search.cost_size or setting.task.image_size(setting.val, setting.config)


def network_cost(arch: Arch, setting: Setting, size_hw: tuple[int, int]) -> Cost:
    """Count the task's network on `arch` (paper rule)."""
    return model_cost(setting.task.prepare(arch, setting.config.task), setting.meta_head(arch), size_hw)


def count_costs(arch: SuperArch, setting: Setting) -> Costs:
    """Count a search space and turn ``search.budget`` into MAdds of its layers.

    Raises:
        FnaError: the budget lies outside what the space can reach.
    """
    config, (height, width) = setting.config, image_size(setting)
    strided = setting.task.prepare(arch, config.task)
    table = cost_table(strided, (height, width))
    seed = network_cost(arch.seed, setting, (height, width))
    other = seed.madds - path_cost(table, strided.seed_path())
    if config.search.budget is None:
        return Costs((height, width), table, other, seed, None)
    budget = parse_budget(config.search.budget)
    if budget.cost != "madds":
        raise FnaError(f"search.budget is {config.search.budget}; a search holds MAdds, e.g. 0.9x or 2.4 GMAdds")
    wanted = budget.amount * (seed.madds if budget.relative else 1)
    low, high = (sum(map(extreme, table)) + other for extreme in (min, max))
    if not low <= wanted <= high:
        raise FnaError(
            f"search.budget {config.search.budget} means {wanted / 1e9:.4g} G MAdds at {height}x{width}, but this "
            f"space reaches from {low / 1e9:.4g} to {high / 1e9:.4g} G "
            f"({low / seed.madds:.2f} to {high / seed.madds:.2f} x the seed); choose a budget in that range"
        )
    return Costs((height, width), table, other, seed, int(wanted) - other)
