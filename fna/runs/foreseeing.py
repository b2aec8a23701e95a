"""What later stages would refuse, told before any work is done."""

from __future__ import annotations

from pathlib import Path

from fna.arch import SuperArch
from fna.config import Config, parse_budget
from fna.cost.latency import named_latencies
from fna.errors import FnaError, nearest, quoted
from fna.runs.run import Run
from fna.searching.alphas import check_settings
from fna.searching.forms import allowed
from fna.searching.parting import part_records
from fna.seeds import collect, load_seed
from fna.seeds.finding import existing
from fna.tasks.weighting import class_weights
from fna.training.batches import make_sampler
from fna.training.freezing import check_freeze


def foresee_names(config: Config) -> None:
    """Raise an `FnaError` if the search or the seed is named wrongly, before the data are read, which takes minutes."""
    check_settings(config.search)
    if config.seed.name not in collect():
        load_seed(config.seed.name, None)


def foresee_settings(config: Config) -> None:
    """Look at what can be known of a run's settings without its data.

    Raises:
        FnaError: a name is unknown, or a budget in ms has no latency table.
    """
    foresee_names(config)
    for given in (config.search.budget, config.derive.budget):
        if given is not None and parse_budget(given).cost == "latency":
            named_latencies(config.search.latency_table)


def foresee(run: Run, space: SuperArch) -> None:
    """Look at the settings of search, derivation and adaptation.

    Args:
        run: not expanded yet.
        space: the search space.

    Raises:
        FnaError: there are too few images, a budget cannot be met, or ``adapt`` names what is not there.
    """
    config, problem, compute = run.config, run.problem, run.compute
    search, adapt, (train,) = config.search, config.adapt, run.data("train")
    part_records(train, search, compute.rng_seed, compute.world.size)
    make_sampler(train, range(len(train)), adapt.batch_size, "adapt", compute)
    for name, given in (("search.budget", search.budget), ("derive.budget", config.derive.budget)):
        if given is not None:
            budget = parse_budget(given)
            allowed(budget, problem, space, problem.costs(space, budget.cost), name)
    if not isinstance(adapt.class_weights, str):
        class_weights(adapt.class_weights, train, problem.labels)
    check_freeze(adapt.freeze, len(space.stages))
    if adapt.weights is not None:
        existing(adapt.weights)
    known = ("seed", config.derive.name, *run.names("derive"))
    if adapt.arch not in known and not Path(adapt.arch).expanduser().is_file():
        raise no_target(run, adapt.arch)


def no_target(run: Run, name: str) -> FnaError:
    """Return the error that ``adapt.arch`` names nothing."""
    targets = run.names("derive")
    return FnaError(
        f"adapt.arch is '{name}'{nearest(name, ['seed', *targets])}; expected 'seed', an architecture file or a target "
        f"of this run (there is {', '.join(targets) or 'none yet'}); make one: fna derive {quoted(run.path)} "
        f"--derive.name {name}"
    )
