"""A front from one super network: networks of several budgets beside what needs no search, all adapted and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from fna.arch import Arch, SuperArch
from fna.arch.target import Form, Target
from fna.config import Config, make_config, merge
from fna.config.budgets import UNITS, Budget, parse_budget
from fna.cost.costs import COSTS
from fna.cost.units import with_unit
from fna.errors import FnaError, pick, quoted
from fna.files import read_json, remove, write_bytes, write_json, write_text
from fna.progress import first_rank, say
from fna.reporting.front import dominated, front_page, front_png
from fna.reporting.rows import PRUNED
from fna.runs import pipeline
from fna.runs.folder import Folder
from fna.runs.jobs import alone, finish, share_network, share_of
from fna.runs.manifest import MANIFEST
from fna.runs.opening import settle_config
from fna.runs.points import FILE, FRONT, POINT, all_costs, job_point, other_points, own_points, own_rows
from fna.runs.pruning import Pruning, prune_seed
from fna.runs.run import Run
from fna.runs.saved import ADAPTED, BASELINE, TWIN
from fna.searching.choosing import NoControlError
from fna.searching.forms import allowed
from fna.searching.found import Alphas
from fna.searching.rescoring import score_again
from fna.stages.prune import IMPORTANCES, load_library
from fna.tasks.problem import Problem

OWN = {"adapt.name": ADAPTED, "baseline": "false"}
CONTROLS = ("cut", "narrowed")  # those that need nothing that is not installed
PRUNED_TO = ("madds", "params")  # no latency table has blocks of any width, and pruning seeks no layer's peak
PRUNINGS = {f"pruned_{importance}": importance for importance in IMPORTANCES}


@dataclass(frozen=True)
class Job:
    """A network of a front.

    Args:
        name: of its run folder.
        kind: ``found``, ``seed``, or a control: see `CONTROLS` and `PRUNINGS`.
        budget: what it may cost; None: it is as it is.
        settings: its own.
        pruning: of a pruned one, from what.
    """

    name: str
    kind: str
    budget: Budget | None
    settings: Mapping[str, str]
    pruning: Pruning | None = None


def make_front(
    folder: Path,
    budgets: Sequence[str],
    overrides: Sequence[str] = (),
    array: str | None = None,
    controls: Sequence[str] = CONTROLS,
    beside: Sequence[Path] = (),
) -> dict[str, Any]:
    """Derive, adapt and score a network for every budget, and the controls, or go on with it.

    Args:
        folder: of a run that has searched; the networks have run folders below its ``front``.
        budgets: as people write them, all of one kind: x, MAdds, params, ms or MB.
        overrides: ``key=value`` changes of the run's settings, of what comes after the search.
        array: ``K/N``: do the K-th of N parts of it.
        controls: which, beside the fine-tuned seed: of `CONTROLS` and `PRUNINGS`.
        beside: other runs whose networks are drawn, too.

    Returns:
        What front.json says, as far as there is something; see `summarise`.

    Raises:
        FnaError: the run has not searched, a budget is none or out of the reach of its space, or a control is none or
            needs what is not there.
    """
    config, jobs = plan_front(folder, budgets, overrides, controls)
    others = [point for other in beside for point in other_points(folder, other, config)]
    for job in share_of(jobs, array):
        for one in (*_needed(folder, job, jobs), job):
            _make(folder, config, one)
        summarise(folder, config, jobs, others)
    return summarise(folder, config, jobs, others)


def plan_front(
    folder: Path, budgets: Sequence[str], overrides: Sequence[str], controls: Sequence[str] = CONTROLS
) -> tuple[Config, list[Job]]:
    """Return the settings of a run, and the networks of its front that the run itself does not have."""
    for name in controls:
        pick(dict.fromkeys((*CONTROLS, *PRUNINGS)), name, "control")
    if pruned := [name for name in controls if name in PRUNINGS]:
        load_library()
    config, run = settle_config(folder, None, overrides), Folder.open(folder, writer=False)
    run.need("search")
    wanted = [parse_budget(text) for text in dict.fromkeys(budgets)]
    if not wanted or len(kinds := {budget.cost for budget in wanted}) > 1:
        raise FnaError(f"--budgets is '{','.join(budgets)}'; expected budgets of one kind, such as 0.35x,0.5x,0.75x,1x")
    problem = Problem.from_json(run.read_json("expand", "problem.json"), config)
    space = SuperArch.from_json(run.read_json("expand", "super.json"))
    costs = problem.costs(space, kinds.pop())
    limits = {str(budget): allowed(budget, problem, space, costs, "--budgets") for budget in wanted}
    if pruned and UNITS[costs.unit] not in PRUNED_TO:
        raise FnaError(
            f"a seed is pruned to {' or '.join(PRUNED_TO)}, not to {budgets[0]}: leave {', '.join(pruned)} out of "
            "--controls"
        )
    scored = own_rows(folder, config)
    jobs = [Job("seed", "seed", None, {"adapt.arch": "seed", "adapt.init": "seed"})] if BASELINE not in scored else []
    seed = folder / FRONT / "seed" / ADAPTED if jobs else folder / BASELINE
    beside = {str(budget): folder / FRONT / f"found_{_slug(budget)}" / ADAPTED for budget in wanted}
    for budget in wanted:
        derived = folder / "targets" / "derived.json"
        if ADAPTED in scored and (read_json(derived)["budget"] or {}).get("text") == str(budget):
            beside[str(budget)] = folder / ADAPTED
            continue
        jobs.append(Job(f"found_{_slug(budget)}", "found", budget, {"derive.budget": str(budget)}))
    smaller = [budget for budget in wanted if limits[str(budget)] < costs.seed]
    for kind in controls:
        if kind == "narrowed":
            settings = {"derive.budget": f"1x {UNITS[costs.unit]}", "derive.chooser": kind}
            jobs.append(Job(kind, kind, None, settings))
            continue
        for budget in smaller:
            settings, pruning = {"derive.budget": str(budget), "derive.chooser": kind}, None
            if kind in PRUNINGS:
                settings |= {"derive.name": PRUNED, "adapt.arch": PRUNED, "adapt.init": "target"}
                pruning = Pruning(PRUNINGS[kind], seed, beside[str(budget)])
            jobs.append(Job(f"{kind}_{_slug(budget)}", kind, budget, settings, pruning))
    return config, jobs


def _needed(folder: Path, job: Job, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that one begins with and that are not done yet."""
    networks = (job.pruning.seed, job.pruning.beside) if job.pruning else ()
    places = {other.name: folder / FRONT / other.name for other in jobs}
    return [j for j in jobs if places[j.name] / ADAPTED in networks and job_point(places[j.name]) is None]


def _make(folder: Path, config: Config, job: Job) -> None:
    """Do one job in its folder, or go on with it, beside no other process."""
    where = folder / FRONT / job.name
    say(f"front: {job.name}")
    with alone(where):
        own = make_config(merge(config.model_dump(mode="json", by_alias=True), _texts({**OWN, **job.settings})))
        share_network(folder, where, own)
        with Run.open(where, own) as run:
            _do(run, job, config, folder)


def _do(run: Run, job: Job, config: Config, folder: Path) -> None:
    """Do one job of a front and leave what it came to in its point.json."""
    if run.finished("point") and "left_out" in run.read_json(POINT, "point"):
        return
    if job.kind == "found" and job.budget:
        _score_for(run, job.budget, config)
    point: dict[str, Any] = {"name": job.name, "kind": job.kind, "budget": str(job.budget) if job.budget else None}
    adapt = run.config.adapt
    try:
        if job.pruning and job.budget:
            adapt = adapt.model_copy(update={"epochs": prune_seed(run, job.pruning, job.budget)})
        elif adapt.arch == run.config.derive.name:
            _adopt_twin(run, folder)
        row = finish(run, adapt)
    except NoControlError as error:
        run.write("point", {POINT: {**point, "left_out": str(error)}})
        return
    target = run.read_json(f"{ADAPTED}/network.json", f"adapt:{ADAPTED}")
    scored = {key: row.get(key) for key in ("minutes", *Form._fields)} | {"score": row[run.problem.task.metric]}
    run.write("point", {POINT: {**point, **scored, "costs": all_costs(run.problem, Target.from_json(target))}})


def _adopt_twin(run: Run, folder: Path) -> None:
    """Derive the target of a run; where the front, or its own run, has adapted the same network already, take that."""
    pipeline.stage(run, "derive")
    stage, name = f"adapt:{ADAPTED}", run.config.derive.name
    if run.finished(stage):
        return
    target = Target.from_json(run.read_json(f"targets/{name}.json", f"derive:{name}"))
    wanted = {**run.config.adapt.model_dump(mode="json"), "name": ADAPTED}
    for where in (folder, *sorted(file.parent for file in (folder / FRONT).glob(f"*/{MANIFEST}"))):
        other = Folder.open(where, writer=False)
        if not other.finished(stage) or other.info(stage)["adapt"] != wanted:
            continue
        if Target.from_json(other.read_json(stage, f"{ADAPTED}/{TWIN}")) == target:
            say(f"front: {where / ADAPTED} is the same network; it is not trained again")
            run.folder.adopt(stage, other)
            return


def _score_for(run: Run, budget: Budget, config: Config) -> None:
    """Score candidates at a budget that the search did not have, if it chose by scored candidates."""
    search = config.search
    known = [parse_budget(b) for b in (search.budget, *search.smaller_budgets) if b is not None]
    found = run.found()
    if isinstance(found.evidence, Alphas) or budget in known or (found.budget or {}).get("text") == str(budget):
        return
    if found.chooser == "halving":
        raise FnaError("a front needs a trained super network; search.chooser halving trains none: use measured")
    kept = run.path / "checkpoints" / "front.json"
    again = score_again(found, run.problem, run.data("train")[0], run.compute, budget, kept)
    info = {**run.folder.info("search"), **again.spent.to_json(), "warnings": list(again.warnings)}
    run.write("search", {"found.json": again.to_json(), "found.safetensors": again.network.state}, info)
    if run.writes:
        remove([kept])


# --- all of it --------------------------------------------------------------------------------------------------------


def summarise(
    folder: Path, config: Config, jobs: Sequence[Job], others: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Write front.json, front.png and front.html in the run's ``front``, from all that is finished.

    Returns:
        JSON-ready: ``metric`` (its title), ``unit`` of the budgets, ``seed`` (costs of the seed by unit), ``points``
        (see `Job`; with score, costs by unit, folder, ``dominated``: whether another is as good for less, and ``of``
        which other run it is),
        ``left_out`` (controls that cannot be, and why) and ``missing`` (still to do).
    """
    (folder / FRONT).mkdir(exist_ok=True)
    with FileLock(folder / FRONT / ".summary.lock"):
        run = Folder.open(folder, writer=False)
        problem = Problem.from_json(run.read_json("expand", "problem.json"), config)
        seed = Target(Arch.from_json(run.read_json("expand", "seed.json")["arch"]))
        points, left_out, missing = own_points(folder, problem), {}, []
        for job in jobs:
            where = folder / FRONT / job.name
            point = job_point(where)
            if point is None:
                missing.append(job.name)
            elif "left_out" in point:
                left_out[job.name] = point["left_out"]
            else:
                points.append({**point, "folder": (where / ADAPTED).as_posix()})
        cost = next((job.budget.cost for job in jobs if job.budget), "madds")
        unit = COSTS[cost].unit
        front = {
            "metric": problem.task.titles[problem.task.metric],
            "unit": unit,
            "seed": all_costs(problem, seed),
            "points": dominated([p for p in [*points, *others] if unit in p["costs"]], unit),
            "left_out": left_out,
            "missing": missing,
        }
        if first_rank():
            write_json(folder / FRONT / FILE, front)
            write_bytes(folder / FRONT / "front.png", front_png(front))
            write_text(folder / FRONT / "front.html", front_page(folder, front))
    return front


def pick_point(folder: Path, budget: str) -> dict[str, Any]:
    """Return the best network of a front within a cost; of equal ones the cheaper.

    Raises:
        FnaError: there is no front yet, none of its networks is within the cost, or none has a cost of that kind.
    """
    file, wanted = folder / FRONT / FILE, parse_budget(budget)
    if not file.exists():
        raise FnaError(f"there is no {file} yet; make it: fna front {quoted(folder)} --budgets 0.35x,0.5x,0.75x,1x")
    front = read_json(file)
    unit = COSTS[wanted.cost].unit
    if unit not in front["seed"]:
        how = "make it with --search.latency_table FILE" if wanted.cost == "latency" else "make it anew"
        raise FnaError(f"the networks of {file} have no {wanted.cost}; {how}")
    limit = wanted.amount * (front["seed"][unit] if wanted.relative else 1)
    within = [point for point in front["points"] if point["costs"].get(unit, limit + 1) <= limit]
    if not within:
        least = min(point["costs"][unit] for point in front["points"] if unit in point["costs"])
        raise FnaError(f"no network of the front is within {wanted}; the cheapest takes {with_unit(least, unit)}")
    best: dict[str, Any] = max(within, key=lambda point: (point["score"], -point["costs"][unit]))
    return best


def _slug(budget: Budget) -> str:
    """Return a budget as a part of a folder's name.

    >>> _slug(parse_budget("0.35x")), _slug(parse_budget("2.5 GMAdds")), _slug(parse_budget("0.5x latency"))
    ('0_35x', '2_5GMAdds', '0_5xlatency')
    """
    return str(budget).replace(".", "_").replace(" ", "")


def _texts(settings: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]
