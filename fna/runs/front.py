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
from fna.errors import FnaError
from fna.files import read_json, remove, write_bytes, write_json, write_text
from fna.progress import first_rank, say
from fna.reporting.front import dominated, front_page, front_png
from fna.runs.folder import Folder
from fna.runs.jobs import alone, finish, share_network, share_of
from fna.runs.opening import settle_config
from fna.runs.run import Run
from fna.runs.saved import ADAPTED, BASELINE
from fna.searching.choosing import NoControlError
from fna.searching.rescoring import score_again
from fna.tasks.problem import Problem

FRONT = "front"  # folder of the networks in the run's
FILE = "front.json"
POINT = "point.json"
EACH = ("name", "arch", "init", *Form._fields)  # settings of adapt in which a front's networks differ
OWN = {"adapt.name": ADAPTED, "baseline": "false"}


@dataclass(frozen=True)
class Job:
    """A network of a front.

    Args:
        name: of its run folder.
        kind: ``found``, ``cut``, ``narrowed`` or ``seed``.
        budget: what it may cost; None: it is as it is.
        settings: its own.
    """

    name: str
    kind: str
    budget: Budget | None
    settings: Mapping[str, str]


def make_front(
    folder: Path, budgets: Sequence[str], overrides: Sequence[str] = (), array: str | None = None
) -> dict[str, Any]:
    """Derive, adapt and score a network for every budget, and the controls, or go on with it.

    Args:
        folder: of a run that has searched; the networks have run folders below its ``front``.
        budgets: as people write them, all of one kind: x, MAdds, params or ms.
        overrides: ``key=value`` changes of the run's settings, of what comes after the search.
        array: ``K/N``: do the K-th of N parts of it.

    Returns:
        What front.json says, as far as there is something; see `summarise`.

    Raises:
        FnaError: the run has not searched, or a budget is none or out of the reach of its space.
    """
    config, jobs = plan_front(folder, budgets, overrides)
    for job in share_of(jobs, array):
        where = folder / FRONT / job.name
        say(f"front: {job.name}")
        with alone(where):
            own = make_config(merge(config.model_dump(mode="json", by_alias=True), _texts({**OWN, **job.settings})))
            share_network(folder, where, own)
            with Run.open(where, own) as run:
                _do(run, job, config)
        summarise(folder, config, jobs)
    return summarise(folder, config, jobs)


def plan_front(folder: Path, budgets: Sequence[str], overrides: Sequence[str]) -> tuple[Config, list[Job]]:
    """Return the settings of a run, and the networks of its front that the run itself does not have."""
    config, run = settle_config(folder, None, overrides), Folder.open(folder, writer=False)
    run.need("search")
    wanted = [parse_budget(text) for text in dict.fromkeys(budgets)]
    if not wanted or len(kinds := {budget.cost for budget in wanted}) > 1:
        raise FnaError(f"--budgets is '{','.join(budgets)}'; expected budgets of one kind, such as 0.35x,0.5x,0.75x,1x")
    problem = Problem.from_json(run.read_json("expand", "problem.json"), config)
    space = SuperArch.from_json(run.read_json("expand", "super.json"))
    costs = problem.costs(space, kinds.pop())
    limits = {str(budget): costs.limit(budget, "--budgets") for budget in wanted}
    scored = _own_rows(folder, config)
    jobs = [Job("seed", "seed", None, {"adapt.arch": "seed", "adapt.init": "seed"})] if BASELINE not in scored else []
    for budget in wanted:
        derived = folder / "targets" / "derived.json"
        if ADAPTED in scored and (read_json(derived)["budget"] or {}).get("text") == str(budget):
            continue  # the run's own target
        jobs.append(Job(f"found_{_slug(budget)}", "found", budget, {"derive.budget": str(budget)}))
    for budget in wanted:
        if limits[str(budget)] < costs.seed:
            settings = {"derive.budget": str(budget), "derive.chooser": "cut"}
            jobs.append(Job(f"cut_{_slug(budget)}", "cut", budget, settings))
    highest = f"1x {UNITS[costs.unit]}"
    jobs.append(Job("narrowed", "narrowed", None, {"derive.budget": highest, "derive.chooser": "narrowed"}))
    return config, jobs


def _do(run: Run, job: Job, config: Config) -> None:
    """Do one job and leave what it came to in its point.json."""
    if run.finished("point") and "left_out" in run.read_json(POINT, "point"):
        return
    if job.kind == "found" and job.budget:
        _score_for(run, job.budget, config)
    point: dict[str, Any] = {"name": job.name, "kind": job.kind, "budget": str(job.budget) if job.budget else None}
    try:
        row = finish(run)
    except NoControlError as error:
        run.write("point", {POINT: {**point, "left_out": str(error)}})
        return
    target = run.read_json(f"{ADAPTED}/network.json", f"adapt:{ADAPTED}")
    scored = {key: row.get(key) for key in ("minutes", *Form._fields)} | {"score": row[run.problem.task.metric]}
    run.write("point", {POINT: {**point, **scored, "costs": _costs(run.problem, Target.from_json(target))}})


def _score_for(run: Run, budget: Budget, config: Config) -> None:
    """Score candidates at a budget that the search did not have, if it chose by scored candidates."""
    search = config.search
    known = [parse_budget(b) for b in (search.budget, *search.smaller_budgets) if b is not None]
    found = run.found()
    if found.chooser == "alphas" or budget in known or (found.budget or {}).get("text") == str(budget):
        return
    if found.chooser == "halving":
        raise FnaError("a front needs a trained super network; search.chooser halving trains none: use measured")
    kept = run.path / "checkpoints" / "front.json"
    again = score_again(found, run.problem, run.data("train")[0], run.compute, budget, kept)
    info = {**run.folder.info("search"), **again.spent.to_json(), "warnings": list(again.warnings)}
    run.write("search", {"found.json": again.to_json(), "found.safetensors": again.network.state}, info)
    if run.writes:
        remove([kept])


def _costs(problem: Problem, target: Target) -> dict[str, int]:
    """Return what a network costs in every unit that is known, latency if there is a table that has it."""
    costs = {}
    for name, measure in COSTS.items():
        if name == "latency" and problem.config.search.latency_table is None:
            continue
        try:
            costs[measure.unit] = problem.at(target).whole(target.arch, name)
        except FnaError as error:
            say(f"front: {error}")
    return costs


# --- all of it --------------------------------------------------------------------------------------------------------


def summarise(folder: Path, config: Config, jobs: Sequence[Job]) -> dict[str, Any]:
    """Write front.json, front.png and front.html in the run's ``front``, from all that is finished.

    Returns:
        JSON-ready: ``metric`` (its title), ``unit`` of the budgets, ``seed`` (costs of the seed by unit), ``points``
        (see `Job`; with score, costs by unit, folder, and ``dominated``: whether another is as good for less),
        ``left_out`` (controls that cannot be, and why) and ``missing`` (still to do).
    """
    (folder / FRONT).mkdir(exist_ok=True)
    with FileLock(folder / FRONT / ".summary.lock"):
        run = Folder.open(folder, writer=False)
        problem = Problem.from_json(run.read_json("expand", "problem.json"), config)
        seed = Target(Arch.from_json(run.read_json("expand", "seed.json")["arch"]))
        points, left_out, missing = _own_points(folder, problem), {}, []
        for job in jobs:
            where = folder / FRONT / job.name
            point = _point(where)
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
            "seed": _costs(problem, seed),
            "points": dominated([p for p in points if unit in p["costs"]], unit),
            "left_out": left_out,
            "missing": missing,
        }
        if first_rank():
            write_json(folder / FRONT / FILE, front)
            write_bytes(folder / FRONT / "front.png", front_png(front))
            write_text(folder / FRONT / "front.html", front_page(folder, front))
    return front


def _point(where: Path) -> dict[str, Any] | None:
    """Return what a job has left; None: it is not finished."""
    if not (where / POINT).exists():
        return None
    job = Folder.open(where, writer=False)
    point: dict[str, Any] | None = job.read_json("point", POINT) if job.finished("point") else None
    return point


def _own_rows(folder: Path, config: Config) -> dict[str, Any]:
    """Return the scored networks that the run itself has, the seed and its target, if the schedule is that of now."""
    run, wanted = Folder.open(folder, writer=False), config.adapt.model_dump(mode="json", exclude=set(EACH))
    rows = run.read_json("evaluate", "metrics.json")["rows"] if run.finished("evaluate") else {}
    done = {name: run.info(f"adapt:{name}")["adapt"] for name in (BASELINE, ADAPTED) if name in rows}
    return {name: rows[name] for name, own in done.items() if all(own.get(key) == wanted[key] for key in wanted)}


def _own_points(folder: Path, problem: Problem) -> list[dict[str, Any]]:
    points = []
    for name, row in _own_rows(folder, problem.config).items():
        target = Target.from_json(read_json(folder / name / "network.json"))
        known = {key: row.get(key) for key in ("minutes", *Form._fields)} | {"score": row[problem.task.metric]}
        budget = (
            None if name == BASELINE else (read_json(folder / "targets" / "derived.json")["budget"] or {}).get("text")
        )
        kind = "seed" if name == BASELINE else "found"
        where = (folder / name).as_posix()
        known |= {"costs": _costs(problem, target), "folder": where}
        points.append({"name": name, "kind": kind, "budget": budget, **known})
    return points


def pick_point(folder: Path, budget: str) -> dict[str, Any]:
    """Return the best network of a front within a cost; of equal ones the cheaper.

    Raises:
        FnaError: there is no front yet, none of its networks is within the cost, or none has a cost of that kind.
    """
    file, wanted = folder / FRONT / FILE, parse_budget(budget)
    if not file.exists():
        raise FnaError(f"there is no {file} yet; make it: fna front {folder} --budgets 0.35x,0.5x,0.75x,1x")
    front = read_json(file)
    unit = COSTS[wanted.cost].unit
    if unit not in front["seed"]:
        raise FnaError(f"the networks of {file} have no latency; make it with --search.latency_table FILE")
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
