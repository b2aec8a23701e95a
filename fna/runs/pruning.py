"""The fine-tuned seed of a run, pruned to a budget and fine-tuned again, for the time that a search's network took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fna.arch import Arch
from fna.arch.target import Target
from fna.config.budgets import Budget
from fna.nets.weights import Network
from fna.progress import say
from fna.reporting.rows import PRUNED, charged_minutes
from fna.runs.folder import Folder
from fna.runs.pipeline import PLAIN_SEED, adapt_one, keep_target, kept_target, start_network
from fna.runs.run import Run
from fna.runs.saved import TWIN, WEIGHTS
from fna.searching.choosing import Choice
from fna.searching.forms import allowed
from fna.stages.derive import Derived
from fna.stages.prune import prune
from fna.training.batches import Stream
from fna.training.clock import Stopwatch
from fna.training.pace import Pace, measure_pace

FILE = "prune.json"
SHORT = "seed_short"  # the adaptation of a seed that is fine-tuned for its pruning alone


@dataclass(frozen=True)
class Pruning:
    """What is pruned, and how.

    Args:
        importance: a name of `stages.prune.IMPORTANCES`.
        seed: the folder of the fine-tuned seed, in a run's; see `_tuned_seed` for when it is taken.
        beside: the folder of the network within the same budget, in a run's, whose total time it gets.
    """

    importance: str
    seed: Path
    beside: Path


def prune_seed(run: Run, pruning: Pruning, budget: Budget) -> int:
    """Make the target `reporting.rows.PRUNED` of a run: its fine-tuned seed, pruned to a budget; once.

    Args:
        run: begun with the super network's run's search, which is not used.
        pruning: see `Pruning`.
        budget: of the whole network, in MAdds or params.

    Returns:
        The epochs of fine-tuning that make its total time, the seed's fine-tuning and the pruning in it, that of the
        network beside it, its search in it: measured compute minutes, at least one epoch.

    Raises:
        NoControlError: it cannot be pruned to that.
    """
    if run.finished("prune"):
        return int(run.read_json(FILE, "prune")["epochs"])
    seed, spent = _tuned_seed(run, pruning)
    watch, own = Stopwatch(run.compute.device.type), run.config.derive  # the seed's own time is in `spent`
    wanted = {"budget": own.budget, "chooser": own.chooser}
    if not kept_target(run, PRUNED, wanted):
        keep_target(run, PRUNED, wanted, _pruned(run, seed, pruning.importance, budget))
    target = Target.from_json(run.read_json(f"targets/{PRUNED}.json", f"derive:{PRUNED}"))
    network = start_network(run, target, "target", PRUNED)  # of several processes each has pruned with other batches
    seconds = {n: _pace(run, net).step for n, net in (("seed", seed), ("pruned", network))}
    minutes = _epoch_minutes(spent) * seconds["pruned"] / seconds["seed"]
    ours = spent["compute_minutes"] + watch.read().compute_minutes
    left = _total(pruning.beside) - ours
    epochs = max(1, round(left / minutes))
    say(f"prune: {epochs} epochs of {minutes:.2f} minutes, so that it takes as long as {pruning.beside}")
    about = {
        "importance": pruning.importance,
        "seed_epochs": spent["adapt"]["epochs"],
        "compute_minutes": ours,
        "left_minutes": left,
        "epochs": epochs,
    }
    run.write("prune", {FILE: about})
    return int(run.read_json(FILE, "prune")["epochs"])


def _pruned(run: Run, seed: Network[Arch], importance: str, budget: Budget) -> Derived:
    """Prune the fine-tuned seed to a budget."""
    costs, (train,) = run.problem.costs(run.space, budget.cost), run.data("train")
    limit = allowed(budget, run.problem, run.space, costs, "the budget")
    network = prune(seed, run.problem, train, run.compute, limit, budget.cost, importance)
    problem, target = run.problem.at(network), Target(network.arch, *network.form)
    choice = Choice((), target, problem.whole(network.arch, budget.cost), (), 0)
    whole = problem.cost(network.arch)
    return Derived(**vars(network), choice=choice, costs=costs, budget=budget, limit=limit, cost=whole)


def _tuned_seed(run: Run, pruning: Pruning) -> tuple[Network[Arch], Mapping[str, Any]]:
    """Return the seed to prune, fine-tuned, and how it was.

    Where the run's own fine-tuned seed took more than half of the total time, little or nothing would be left for the
    pruned one. Then one is fine-tuned for this pruning, for half of it.
    """
    seed, spent = _tuned(pruning.seed)
    half = _total(pruning.beside) / 2
    if spent["compute_minutes"] <= half:
        return seed, spent
    epochs = max(1, round(half / _epoch_minutes(spent)))
    adapt_one(run, run.config.adapt.model_copy(update={"name": SHORT, **PLAIN_SEED, "epochs": epochs}))
    return _tuned(run.path / SHORT)


def _tuned(folder: Path) -> tuple[Network[Arch], Mapping[str, Any]]:
    """Return a fine-tuned network of a run by its folder, and how it was adapted."""
    run, stage = Folder.open(folder.parent, writer=False), f"adapt:{folder.name}"
    target = Target.from_json(run.read_json(stage, f"{folder.name}/{TWIN}"))
    state = run.read_state(stage, f"{folder.name}/{WEIGHTS}")
    return Network(target.arch, state, *target.form), run.info(stage)


def _epoch_minutes(spent: Mapping[str, Any]) -> float:
    """Return the compute minutes of an epoch of an adaptation."""
    return float(spent["compute_minutes"] / spent["adapt"]["epochs"])


def _total(folder: Path) -> float:
    """Return the compute minutes of an adapted network of a run by its folder, those of the search included."""
    run = Folder.open(folder.parent, writer=False)
    own = run.info(f"adapt:{folder.name}")
    return float(own["compute_minutes"] + charged_minutes(own["adapt"], run.info("search")["compute_minutes"]))


def _pace(run: Run, network: Network[Arch]) -> Pace:
    """Time training steps of a network."""
    problem, config, (train,) = run.problem.at(network), run.config.adapt, run.data("train")
    few = Stream(problem, train, range(len(train)), config.at_once, "pace", run.compute)
    batch, images_N3HW = next(few.batches(0, 1))
    return measure_pace(problem, network.arch, batch, images_N3HW, config, run.compute)
