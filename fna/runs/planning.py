"""What a recipe would mean on each seed, before anything is trained: costs, search space, budget, memory, minutes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from fna.arch import Arch, SuperArch
from fna.arch.spaces import task_space
from fna.config import Config, SearchConfig, make_config, parse_budget
from fna.config.budgets import Budget
from fna.cost.costs import Costs
from fna.data.index import open_splits
from fna.data.recognising import find_package, pick_reader
from fna.data.splits import open_data
from fna.errors import FnaError
from fna.progress import bar
from fna.runs.foreseeing import foresee_names
from fna.searching.forms import MEASURED, allowed, forms_of
from fna.searching.measured import finalists
from fna.searching.scoring import HELD
from fna.seeds import IMAGENET_MEAN, IMAGENET_STD, collect, load_seed
from fna.seeds.finding import is_here
from fna.tasks import load_task
from fna.tasks.labels import Labels
from fna.tasks.problem import Problem
from fna.training.batches import Stream
from fna.training.compute import Compute
from fna.training.engine import Batch
from fna.training.memory import training_memory
from fna.training.pace import Pace, measure_pace

ALPHA_STEP = 4 / 3  # x a weight step: two paths forward and back, without the weights' gradients


@dataclass(frozen=True)
class Basis:
    """What all seeds are planned for.

    Args:
        problem: the recipe's, whatever the seed.
        train: records to train on; None: not known.
        val: records to score on; 0 where not known.
        remarks: what the plan rests on.
    """

    problem: Problem
    train: int | None
    val: int
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class SeedPlan:
    """A recipe on one seed. All costs are those of whole networks, head included.

    Args:
        name: the seed.
        recipe: whether it is the recipe's own.
        here: whether its weights are on this machine; None: not known before they are read.
        params: learnable parameters.
        madds: multiply-adds at the size images are scored at.
        space: number of architectures in the search space.
        min_madds: of the cheapest network of the space, its smallest input and narrowest head.
        max_madds: of the dearest, at the largest.
        unit: of the budget.
        limit: what the recipe's budget allows with this seed; None: there is no budget, or it cannot be met.
        why_not: why it cannot be met; empty: it can.
        peak: bytes of maps that are alive at once while the network runs one image.
        memory: estimated bytes of a training step.
        search_minutes: estimated; None: not timed, or the number of images is not known.
        adapt_minutes: the same of the target's adaptation.
        baseline_minutes: the same of the fine-tuned seed's.
        shrink: settings that search a network within the budget of the recipe's seed, from this larger one.
    """

    name: str
    recipe: bool
    here: bool | None
    params: int
    madds: int
    space: int
    min_madds: int
    max_madds: int
    unit: str
    limit: int | None
    why_not: str
    peak: int
    memory: int
    search_minutes: float | None = None
    adapt_minutes: float | None = None
    baseline_minutes: float | None = None
    shrink: tuple[str, ...] = ()


def find_basis(config: Config, images: int | None = None) -> Basis:
    """Return what is known of the data: the data themselves, a given number of images, or only the settings.

    Args:
        config: the recipe.
        images: how many to train on; None: as many as there are in ``data.root``.

    Raises:
        FnaError: a name is unknown, or the data are there and have flaws.
    """
    foresee_names(config)
    name, root = config.task.name, config.data.root
    reader = pick_reader(find_package(name).FORMATS, config.data.format, name)
    if images is None and (not reader.on_disk or (root and Path(root).expanduser().is_dir())):
        data = open_data(config)
        return Basis(Problem.of(config, data.val, _NoSeed), len(data.train), len(data.val), ())
    task = load_task(name)
    said = dict.fromkeys((getattr(config.data, "labels", None) or {}).values())
    names = config.data.classes or [*said] or [f"class {i}" for i in range(config.task.article_classes)]
    size_hw = task.scored_size(config) or config.data.crop
    remarks = [f"counted without the data: for {len(names)} classes, at {size_hw[0]} x {size_hw[1]} pixels"]
    if images is None:
        where = f"there is no folder {root}" if root else "data.root is not given"
        remarks.append(f"{where}: minutes are not known; give --data.root PATH or --images N")
    labels = Labels(tuple(names), ((0, 0, 0),) * len(names))
    return Basis(Problem(config, task, labels, size_hw, IMAGENET_MEAN, IMAGENET_STD), images, 0, tuple(remarks))


class _NoSeed:
    """What a `Problem` asks of a seed, where any will do."""

    mean, std = IMAGENET_MEAN, IMAGENET_STD


def plan(
    basis: Basis, compute: Compute, *, every: bool = False, timed: bool = True
) -> tuple[list[SeedPlan], list[str]]:
    """Plan a recipe on the seeds whose weights are on this machine, and on the recipe's own.

    Args:
        basis: of `find_basis`.
        compute: where training would be.
        every: plan all known seeds.
        timed: time some steps of each; without, or without a number of images, minutes stay None.

    Returns:
        The plans, the cheapest seed first, and remarks: seeds that the model or the space cannot take.

    Raises:
        FnaError: the recipe's own seed is unknown, or does not fit.
    """
    own, known = basis.problem.config.seed.name, collect()
    here = {name: any(map(is_here, variant.weights)) for name, variant in known.items()}
    names = [own, *(name for name in known if name != own and (every or here[name]))]
    sample = _sample(basis, compute) if timed and basis.train else None
    plans, remarks, limit = [], list(basis.remarks), None
    with bar(len(names), "plan") as progress:
        for name in names:
            arch = known[name].arch if name in known else load_seed(name, None).arch
            try:
                row = _plan_one(basis, name, arch, here.get(name), compute, sample)
            except FnaError as error:
                if name == own:
                    raise
                remarks.append(f"{name} is left out: {error}")
                continue
            limit = row.limit if name == own else limit
            plans.append(replace(row, shrink=_shrink(basis, row, arch, limit)))
            progress.advance()
    return sorted(plans, key=lambda row: (row.madds, row.name)), remarks


def _plan_one(
    basis: Basis, name: str, arch: Arch, here: bool | None, compute: Compute, sample: _Sample | None
) -> SeedPlan:
    problem = basis.problem
    config, cost = problem.config, problem.cost(arch)
    space, budget = space_of(problem, arch), _budget(config)
    ranges = [problem.at(form).costs(space).range for form in forms_of(config)]
    costs = problem.costs(space, budget.cost if budget else "madds")
    limit, why_not = None, ""
    try:
        limit = allowed(budget, problem, space, costs, "search.budget") if budget else None
    except FnaError as error:
        why_not = str(error)
    row = SeedPlan(
        name=name,
        recipe=name == config.seed.name,
        here=here,
        params=cost.params,
        madds=cost.madds,
        space=space.size,
        min_madds=min(low for low, _ in ranges),
        max_madds=max(high for _, high in ranges),
        unit=costs.unit,
        limit=limit,
        why_not=why_not,
        peak=problem.whole(arch, "memory"),
        memory=training_memory(problem, arch, config.adapt.at_once, config.adapt.optimizer, compute),
    )
    if sample is None or basis.train is None:
        return row
    pace = measure_pace(sample.problem, arch, sample.batch, sample.images, config.adapt, compute)
    spent = limit / costs.seed if limit is not None and costs.unit == "MAdds" else 1.0
    return replace(
        row,
        search_minutes=_search_seconds(basis, pace, space, spent) / 60,
        adapt_minutes=_adapt_seconds(basis, pace, spent) / 60,
        baseline_minutes=_adapt_seconds(basis, pace, 1.0) / 60,
    )


def space_of(problem: Problem, arch: Arch) -> SuperArch:
    """Return the search space of a seed by the settings."""
    return task_space(arch, problem.task.layers, problem.prepared(arch).taps, **problem.config.space.blocks())


def _budget(config: Config) -> Budget | None:
    return None if config.search.budget is None else parse_budget(config.search.budget)


def _shrink(basis: Basis, row: SeedPlan, arch: Arch, limit: int | None) -> tuple[str, ...]:
    """Return the settings that fit a seed dearer than the recipe's budget into it; none where that cannot be."""
    budget = _budget(basis.problem.config)
    if limit is None or budget is None or row.recipe:
        return ()
    costs = basis.problem.costs(space_of(basis.problem, arch), budget.cost)
    absolute = Budget(limit, costs.unit, budget.cost)
    if not costs.range[0] <= limit < costs.seed:
        return ()
    return "--seed.name", row.name, "--search.budget", str(absolute)


# --- minutes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    """A batch to time steps on, and the problem it is of."""

    problem: Problem
    batch: Batch
    images: Tensor


def _sample(basis: Basis, compute: Compute) -> _Sample:
    """Draw a batch of synthetic scenes with the recipe's crop, batch size and transforms."""
    size, drawn = basis.problem.config.adapt.batch_size, synthetic(basis.problem.config)
    data = open_splits(drawn.task.name, drawn.data, [drawn.data.train])[drawn.data.train]
    problem = replace(Problem.of(drawn, data, _NoSeed), size_hw=basis.problem.size_hw)
    alone = replace(compute, workers=0)
    batch, images_N3HW = next(Stream(problem, data, range(len(data)), size, "plan", alone).batches(0, 1))
    return _Sample(problem, batch, images_N3HW)


def synthetic(config: Config) -> Config:
    """Return a recipe whose data are synthetic scenes, as many as a batch needs."""
    settings = config.model_dump(mode="json", by_alias=True)
    settings["data"] |= {"root": None, "classes": None, "image_folder": None, "train": "train", "val": "val"}
    settings["data"] |= {"format": "synthetic", "images": 2 * config.adapt.batch_size + 8}
    return make_config(settings)


def _search_seconds(basis: Basis, pace: Pace, space: SuperArch, spent: float) -> float:
    """Estimate the search: its weight steps, on paths of the mean cost drawn, then alpha steps or scores and trials.

    Args:
        basis: the number of images.
        pace: of the seed's network at scale 1; time is taken to be in proportion to MAdds.
        space: the search space.
        spent: the budget, x the seed's MAdds.
    """
    config, problem = basis.problem.config.search, basis.problem
    measured = config.chooser in MEASURED
    held = (basis.train or 0) * (config.held_out if measured else config.alpha_split)
    steps = ((basis.train or 0) - held) // config.batch_size
    seconds = config.batch_size / problem.config.adapt.batch_size  # of a batch here per second of one there
    costs = [problem.at(form).costs(space) for form in forms_of(problem.config)]
    seed = problem.cost(space.seed).madds
    ratio = sum(_drawn(config, one, seed, spent) for one in costs) / len(costs)
    if config.sampler == "anchored":
        ratio = config.anchor * sum(one.seed for one in costs) / (seed * len(costs)) + (1 - config.anchor) * ratio
    weight_step = pace.step * seconds * ratio
    if config.distill:  # the teacher's forward pass
        areas = [form.scale**2 for form in forms_of(problem.config)]
        weight_step += (1 - config.anchor) * pace.forward * seconds * sum(areas) / len(areas)
    if not measured:
        alphas = steps * max(0, config.epochs - config.alpha_start) / config.cycle
        return weight_step * (steps * config.epochs + ALPHA_STEP * alphas)
    if config.chooser == "halving":
        return weight_step * steps * config.epochs
    singles = sum(2 for row in costs[0].table if len(row) > 1)
    batches = config.recalibrate + max(1, min(held, HELD) // config.batch_size)
    budgets = 1 + len(config.smaller_budgets)
    finals = budgets * finalists(set(problem.config.space.input_scales))
    scored = (budgets * config.candidates + singles) * batches + finals * min(held, HELD) * _area(problem)
    trained = finals * config.trial_steps(int(steps * config.epochs)) * pace.step * seconds * spent
    return weight_step * steps * config.epochs + trained + scored * pace.forward * seconds


def _area(problem: Problem) -> float:
    """Return what an image that is scored has to compute, in batches of training crops."""
    height, width = problem.config.data.crop
    return problem.size_hw[0] * problem.size_hw[1] / (height * width) / problem.config.search.batch_size


def _drawn(config: SearchConfig, costs: Costs, seed: int, spent: float) -> float:
    """Return the mean MAdds of the paths drawn in a form, x the seed's in its own; anchors aside."""
    if config.sampler != "anchored":
        return (sum(sum(row) / len(row) for row in costs.table) + costs.other) / seed
    return spent * sum(config.window) / 2


def _adapt_seconds(basis: Basis, pace: Pace, spent: float) -> float:
    """Estimate an adaptation: its steps, and scoring on the validation split as far as its number of images is known.

    Args:
        basis: the numbers of images.
        pace: of the seed's network.
        spent: MAdds of the network, x the seed's.
    """
    problem, config = basis.problem, basis.problem.config.adapt
    steps = (basis.train or 0) // config.batch_size * config.epochs
    scorings = -(-config.epochs // problem.config.evaluate.every)
    area = (problem.size_hw[0] * problem.size_hw[1]) / (problem.config.data.crop[0] * problem.config.data.crop[1])
    scored = scorings * basis.val * area / config.batch_size
    return spent * (steps * pace.step + (config.recalibrate + scored) * pace.forward)


def command(recipe: str, row: SeedPlan, settings: Sequence[str]) -> str:
    """Return the command that shrinks a larger seed into the recipe's budget.

    Args:
        recipe: the recipe's file.
        row: has `shrink`.
        settings: others that were given, ``key=value``.
    """
    kept = [s.partition("=") for s in settings if not s.startswith(("seed.name=", "search.budget="))]
    words = [word for key, _, value in kept for word in (f"--{key}", value)]
    return shlex.join(["fna", "run", recipe, "--run", f"runs/{row.name}", *row.shrink, *words])
