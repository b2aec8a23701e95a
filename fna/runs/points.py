"""What is drawn in a front: networks that are fine-tuned and scored, with all that they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fna.arch.target import Form, Target
from fna.config import Config
from fna.cost.costs import COSTS
from fna.data.index import index_file
from fna.errors import FnaError, quoted
from fna.files import decode_json, read_bytes, read_json
from fna.progress import say
from fna.runs.folder import Folder
from fna.runs.opening import flatten, settle_config
from fna.runs.saved import ADAPTED, BASELINE, TWIN
from fna.tasks.problem import Problem

FRONT = "front"  # folder of the networks in the run's
FILE = "front.json"
POINT = "point.json"
EACH = ("name", "arch", "init", "weights", *Form._fields)  # settings of adapt in which a front's networks differ
MADE = ("sha256", "files", "folders", "changed")  # of an index: not what the data are


def all_costs(problem: Problem, target: Target) -> dict[str, int]:
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


def job_point(where: Path) -> dict[str, Any] | None:
    """Return what the run folder of a front's job has come to; None: it is not finished."""
    if not (where / POINT).exists():
        return None
    job = Folder.open(where, writer=False)
    point: dict[str, Any] | None = job.read_json("point", POINT) if job.finished("point") else None
    return point


def own_rows(folder: Path, config: Config) -> dict[str, Any]:
    """Return the scored networks that a run itself has, the seed and its target, if the schedule is that of now."""
    run, wanted = Folder.open(folder, writer=False), schedule(config)
    rows = run.read_json("evaluate", "metrics.json")["rows"] if run.finished("evaluate") else {}
    done = {name: run.info(f"adapt:{name}")["adapt"] for name in (BASELINE, ADAPTED) if name in rows}
    return {name: rows[name] for name, own in done.items() if all(own.get(key) == wanted[key] for key in wanted)}


def schedule(config: Config) -> dict[str, Any]:
    """Return the settings of adaptation that networks of a front have in common."""
    return config.adapt.model_dump(mode="json", exclude=set(EACH))


def own_points(folder: Path, problem: Problem) -> list[dict[str, Any]]:
    """Return the points of the networks that a run itself has."""
    points = []
    for name, row in own_rows(folder, problem.config).items():
        target = Target.from_json(read_json(folder / name / TWIN))
        known = {key: row.get(key) for key in ("minutes", *Form._fields)} | {"score": row[problem.task.metric]}
        budget = (
            None if name == BASELINE else (read_json(folder / "targets" / "derived.json")["budget"] or {}).get("text")
        )
        kind = "seed" if name == BASELINE else "found"
        where = (folder / name).as_posix()
        known |= {"costs": all_costs(problem, target), "folder": where}
        points.append({"name": name, "kind": kind, "budget": budget, **known})
    return points


# --- points of other runs ---------------------------------------------------------------------------------------------


def other_points(folder: Path, other: Path, config: Config) -> list[dict[str, Any]]:
    """Return the points of another run, its front's if it has one, such as one that began with another seed.

    Args:
        folder: of the run whose front they are drawn in.
        other: of the other run.
        config: settings of the run.

    Raises:
        FnaError: the other run is none, has no scored network, or is not of the same problem, data and schedule.
    """
    theirs = settle_config(other, None, ())
    _same(folder, other, config, theirs)
    problem = _problem(other, theirs)
    points = own_points(other, problem)
    if (front := other / FRONT / FILE).exists():
        names = [point["name"] for point in points]
        made = [p for p in read_json(front)["points"] if p["name"] not in names and "of" not in p]
        found = [(p, other / FRONT / p["name"] / ADAPTED) for p in made]
        points += [{**p, "folder": where.as_posix()} for p, where in found if (where / TWIN).exists()]
    if not points:
        raise FnaError(f"{other} has no scored network yet; finish it: fna run RECIPE --run {quoted(other)}")
    return [{**point, "name": f"{other.resolve().name}/{point['name']}", "of": other.as_posix()} for point in points]


def _problem(folder: Path, config: Config) -> Problem:
    run = Folder.open(folder, writer=False)
    return Problem.from_json(run.read_json("expand", "problem.json"), config)


def _same(folder: Path, other: Path, ours: Config, theirs: Config) -> None:
    """Refuse a run that is of another problem, data or schedule, by the first thing that differs."""
    told = []
    for path, config in ((folder, ours), (other, theirs)):
        about = _problem(path, config).to_json()
        about = {key: about[key] for key in ("settings", "labels", "size_hw")} | {"adapt": schedule(config)}
        told.append({key.removeprefix("settings."): value for key, value in flatten(about).items()})
    keys = dict.fromkeys([*told[0], *told[1]])
    if changed := [key for key in keys if told[0].get(key) != told[1].get(key)]:
        here, there = (one.get(changed[0]) for one in told)
        raise FnaError(
            f"{other} does not belong in the front of {folder}: its {changed[0]} is {there}, here it is {here}; give "
            "runs of the same data, task and schedule"
        )
    for split in (ours.data.train, ours.data.val):
        one, two = (_records(path, split) for path in (folder, other))
        if one != two:
            raise FnaError(f"{other} does not belong in the front of {folder}: its split '{split}' holds other records")


def _records(folder: Path, split: str) -> dict[str, Any] | None:
    """Return what a run's index of a split says of the data; None: they are drawn, or it is not there."""
    path = index_file(folder / "data", split)
    if not path.exists():
        return None
    return {key: value for key, value in decode_json(path, read_bytes(path)).items() if key not in MADE}
