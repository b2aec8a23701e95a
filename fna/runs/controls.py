"""Controls: the rows beside which a run's network is judged, each fine-tuned in the same run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fna.arch import Arch, SuperArch
from fna.arch.cutting import SPENT, cut_by_hand
from fna.arch.target import Form, Target
from fna.config import Config
from fna.config.budgets import UNITS
from fna.cost.units import with_unit
from fna.errors import FnaError
from fna.files import read_json, write_json, write_text
from fna.progress import first_rank, say
from fna.reporting.controls import compare
from fna.reporting.page import write_report
from fna.reporting.rows import CONTROLS, CUT, RANDOM, charged_minutes
from fna.runs import pipeline
from fna.runs.manifest import seed_folders
from fna.runs.opening import Jobs, flatten
from fna.runs.pipeline import (
    PLAIN_SEED,
    adapt_one,
    keep_target,
    kept_target,
    stage,
    start_network,
    target_named,
)
from fna.runs.run import Run
from fna.runs.saved import ADAPTED, BASELINE
from fna.searching.choosing import Choice
from fna.stages.derive import Derived, derive

Plan = Mapping[str, Any] | str  # settings of adapt, or why there is no such row


def run_controls(
    folder: str | Path,
    config: Config | None = None,
    overrides: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Do the whole job in `folder` with its controls, or go on with it; see `Run.open` for the arguments.

    Returns:
        The comparison; see `control`.
    """
    with Run.open(folder, config, overrides, data) as job:
        for name in ("expand", "search", "derive"):
            stage(job, name)
        return control(job)


def repeat(
    folder: str | Path,
    jobs: Jobs,
    *,
    only: Sequence[int] | None = None,
    controls: bool = True,
    data: Mapping[str, Any] | None = None,
    after: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Do the whole job for several RNG seeds, search included, or go on with it.

    Args:
        folder: of the run folders, and of controls.json and report.html over all of them.
        jobs: of `opening.open_jobs`.
        only: the RNG seeds to do now; None: all. The others may be done by another process.
        controls: whether the controls are done, too.
        data: see `Run.open`; those of the first.
        after: called when a run is finished.

    Returns:
        The comparison over all of them; see `reporting.controls.compare`.

    Raises:
        FnaError: one of `only` is no job.
    """
    if foreign := set(only or ()) - set(jobs):
        raise FnaError(f"RNG seed {min(foreign)} is none of this job's: {', '.join(map(str, jobs))}")
    for rng_seed in jobs if only is None else only:
        path, config = jobs[rng_seed]
        say(f"RNG seed {rng_seed}: {path}")
        (run_controls if controls else pipeline.run)(path, config, data=data)
        data = None
        summarise(Path(folder), jobs)
        after()
    return summarise(Path(folder), jobs)


def summarise(folder: Path, jobs: Jobs) -> dict[str, Any]:
    """Write controls.json and report.html over the runs of several RNG seeds, as far as they are."""
    compared = compare({rng_seed: path for rng_seed, (path, _) in jobs.items()})
    if first_rank() and seed_folders(folder):
        write_json(folder / "controls.json", compared)
        write_text(folder / "report.html", write_report(folder))
    return compared


def control(run: Run) -> dict[str, Any]:
    """Fine-tune and score the rows of `reporting.rows.CONTROLS`; what is there already is not done twice.

    Args:
        run: it has a target, and ``adapt`` names it.

    Returns:
        The comparison of the rows, also in controls.json; see `reporting.controls.compare`.

    Raises:
        FnaError: the run adapts something else than a target.
    """
    config, rng_seed = run.config.adapt, run.config.engine.rng_seed
    if config.folder != ADAPTED or config.arch not in run.names("derive"):
        raise FnaError(
            f"controls are of a run's network '{ADAPTED}', but adapt.arch is '{config.arch}' and its folder "
            f"'{config.folder}'; leave out --adapt.arch, --adapt.init and --adapt.name"
        )
    base = adapt_one(run, config.model_copy(update={"name": BASELINE, **PLAIN_SEED}))
    found = adapt_one(run, config)
    if not run.finished("evaluate"):  # what counts most can be looked at while the others train
        stage(run, "evaluate")
        stage(run, "report")
    left_out: dict[str, str] = {}
    for name, plan in PLANS.items():
        settings = plan(run, base, found)
        if isinstance(settings, str):
            say(f"{CONTROLS[name]}: left out, {settings}")
            left_out[name] = settings
        else:
            adapt_one(run, config.model_copy(update={"name": name, **PLAIN_SEED, **settings}))
    if not scored(run):
        stage(run, "evaluate")
    compared = compare({rng_seed: run.path}, {rng_seed: left_out})
    run.write("controls", {"controls.json": {"left_out": left_out, **compared}})
    stage(run, "report")
    return compared


def scored(run: Run) -> bool:
    """Tell whether metrics.json has the scores of all networks that are adapted, with the settings of now."""
    if not run.finished("evaluate"):
        return False
    metrics = run.read_json("metrics.json", "evaluate")
    minutes = {name: run.folder.info(f"adapt:{name}")["minutes"] for name in run.names("adapt")}
    settings = flatten(run.config.evaluate.model_dump(mode="json"), "evaluate.")
    known = {name: row["minutes"] for name, row in metrics["rows"].items()}
    return bool(minutes) and known == minutes and metrics["settings"] == settings


# --- a row each: settings of adapt beside those of the plain seed, or why there is no such row ------------------------


def seed_long(run: Run, base: Mapping[str, Any], found: Mapping[str, Any]) -> Plan:
    """Train the seed for the time that search and adaptation took to compute, measured in its own time an epoch."""
    record = run.path / "checkpoints" / "seed_long" / "adapt.json"
    if run.finished("adapt:seed_long"):
        return {"epochs": run.folder.info("adapt:seed_long")["adapt"]["epochs"]}
    if record.exists():  # begun: how long an epoch takes is not asked again
        return {"epochs": read_json(record)["epochs"]}
    searched = charged_minutes(found["adapt"], run.folder.info("search")["compute_minutes"])
    epochs = (searched + found["compute_minutes"]) / (base["compute_minutes"] / base["adapt"]["epochs"])
    return {"epochs": max(1, round(epochs))}


def seed_super(run: Run, base: Mapping[str, Any], found: Mapping[str, Any]) -> Plan:
    """Give the seed's architecture the super network's weights."""
    return {"init": "super"}


def random_target(run: Run, base: Mapping[str, Any], found: Mapping[str, Any]) -> Plan:
    """Draw an architecture of the target's cost, and where the space allows of its form."""
    target, (unit, cost) = target_named(run, run.config.adapt), _cost(run, found)
    settings: Plan = {"arch": RANDOM, "init": "super"}
    wanted = {"budget": f"{cost} {unit}", "chooser": "random"}
    if kept_target(run, RANDOM, wanted):
        return settings
    why = ""
    for like in [target] + [Target(target.arch)] * (target.form != Form()):
        try:
            derived = derive(run.found(), run.problem, wanted["budget"], chooser="random", like=like)
        except FnaError as error:
            why = why or str(error)
        else:
            keep_target(run, RANDOM, wanted, derived)
            return settings
    return f"no random architecture has the target's cost: {why}"


def hand_cut(run: Run, base: Mapping[str, Any], found: Mapping[str, Any]) -> Plan:
    """Cut the seed to the target's cost in its form; see `cut_by_hand`."""
    target, (unit, limit) = target_named(run, run.config.adapt), _cost(run, found)
    problem, space, seed = run.problem.at(target), run.space, run.seed.arch
    plain = target.form == Form()

    def cost(arch: Arch) -> int:
        one = SuperArch.of(arch)
        return problem.costs(one, UNITS[unit]).charged(one.seed_path(), limit)

    whole = cost(seed)
    if whole < SPENT * limit or (plain and whole <= limit):
        where = "" if plain else " at the target's input scale and head width"
        costs = f"the seed costs {with_unit(whole, unit)}{where}, the target {with_unit(limit, unit)}"
        return f"there is nothing to cut, {costs}" + ("; the row would be the seed, (a)" if plain else "")
    try:
        arch = cut_by_hand(seed, space, limit, cost, run.problem.prepared(seed).taps)
    except FnaError as error:  # a narrower block than the space has was not measured
        return f"the cost of a cut is not known: {error}"
    if arch is None:
        return f"no cut of the seed costs {SPENT:.0%} to 100 % of the target's {with_unit(limit, unit)}"
    try:
        path, init = space.path_of(arch), "super"
    except FnaError:  # a layer of it is no candidate
        path, init = (), "seed"
    if not run.finished(f"derive:{CUT}"):
        cut = replace(target, arch=arch)
        whole = problem.whole(arch, UNITS[unit])
        choice = Choice(path, cut, whole, path, whole)
        costs_here = run.problem.costs(space, UNITS[unit])
        network = start_network(run, cut, init)
        derived = Derived(**vars(network), choice=choice, costs=costs_here, cost=problem.cost(arch))
        keep_target(run, CUT, {"budget": None, "chooser": "by hand"}, derived)
    return {"arch": CUT, "init": init}


def _cost(run: Run, found: Mapping[str, Any]) -> tuple[str, int]:
    """Return the unit in which the target's cost was limited, and what the whole target costs in it."""
    name = run.config.adapt.arch
    unit = run.read_json(f"targets/{name}.json", f"derive:{name}")["unit"]
    if UNITS[unit] in found:
        return unit, int(found[UNITS[unit]])
    target = target_named(run, run.config.adapt)
    return unit, run.problem.at(target).whole(target.arch, UNITS[unit])


PLANS: dict[str, Callable[[Run, Mapping[str, Any], Mapping[str, Any]], Plan]] = {
    "seed_long": seed_long,
    "seed_super": seed_super,
    RANDOM: random_target,
    CUT: hand_cut,
}
