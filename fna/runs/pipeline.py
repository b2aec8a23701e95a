"""The stages over a run folder: load what a stage needs, call it, keep what it returns; nothing is done twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fna.arch import Arch
from fna.arch.net_config import load_arch
from fna.arch.target import Target
from fna.config import AdaptConfig, Config
from fna.config.budgets import parse_budget
from fna.cost.madds import space_cost
from fna.errors import FnaError, nearest
from fna.files import read_json
from fna.nets.weights import Network, backbone_only, take
from fna.progress import say, tell
from fna.remapping import summarise
from fna.reporting.page import write_report
from fna.runs.opening import flatten
from fna.runs.run import Run, seed_json
from fna.runs.saved import ADAPTED, KEY, TWIN, WEIGHTS, describe, make_finished
from fna.searching.alphas import check_names, search
from fna.stages.adapt import adapt
from fna.stages.derive import derive
from fna.stages.evaluate import evaluate
from fna.stages.expand import expand, remap_network, seed_network, seed_state
from fna.stages.predict import Finished, png
from fna.tasks.problem import Problem

BASELINE = "baseline"
PREDICTIONS = 6  # pictures in the report


def run_expand(run: Run) -> dict[str, Any]:
    """Expand the seed of a run."""
    problem, config = run.problem, run.config
    check_names(config.search)  # of what comes later, before any work is done
    expanded = expand(run.seed, problem)
    budget = None if config.search.budget is None else parse_budget(config.search.budget)
    costs = problem.costs(expanded.arch, budget.cost if budget else "madds")
    if budget:
        costs.limit(budget, "search.budget")
    info = {
        "size": str(expanded.arch.size),
        "searchable_layers": len(expanded.arch.searchable),
        "searchable_cost": asdict(space_cost(problem.prepared(expanded.arch), costs.table)),
        "seed_cost": costs.seed,
        "unit": costs.unit,
        "warnings": list(expanded.warnings),
    }
    files = {
        "seed.json": seed_json(run.seed),
        "seed.safetensors": seed_state(run.seed, problem),
        "problem.json": problem.to_json(),
        "super.json": expanded.arch.to_json(),
        "super.safetensors": backbone_only(take(expanded.state, "backbone")),
        "remap.json": summarise(expanded.report),
    }
    run.write("expand", files, info)
    return info


def run_search(run: Run) -> dict[str, Any]:
    """Search the architecture of a run."""
    (train,) = run.data("train")
    logs = (run.path / "search.csv", run.path / "entropy.csv")
    found = search(run.expanded(), run.problem, train, run.compute, checkpoints=run.checkpoints("search"), logs=logs)
    info = {"minutes": found.minutes, "warnings": list(found.warnings), "epochs": run.config.search.epochs}
    run.write("search", {"found.json": found.to_json(), "found.safetensors": found.network.state}, info)
    run.clear("search")
    return info


def run_derive(run: Run) -> dict[str, Any]:
    """Derive the target that ``derive.name`` names, within ``derive.budget``."""
    name = run.config.derive.name
    wanted = run.config.derive.budget if run.config.derive.budget is not None else run.config.search.budget
    record = {"budget": wanted, "chooser": run.config.derive.chooser or run.config.search.chooser}
    if run.finished(f"derive:{name}"):
        info = run.folder.info(f"derive:{name}")
        before, now = (None if b is None else parse_budget(b) for b in (info["wanted"]["budget"], wanted))
        chooser = info["wanted"]["chooser"]
        if before != now or chooser != record["chooser"]:
            raise FnaError(
                f"target '{name}' of {run.path} was derived with the budget {before} by '{chooser}', now it is {now} "
                f"by '{record['chooser']}'; give the new one a name of its own, e.g. --derive.name {name}_2"
            )
        say(f"derive: '{name}' is there already")
        return info
    derived = derive(run.found(), run.problem, wanted)
    choice, costs, problem = derived.choice, derived.costs, run.problem.at(derived)
    assert choice is not None
    assert costs is not None
    assert derived.cost is not None
    seed = run.problem.cost(run.seed.arch)
    info = {
        "wanted": record,
        "cost": choice.cost,
        "unit": costs.unit,
        "madds": derived.cost.madds,
        "params": derived.cost.params,
        "budget": None if derived.limit is None else {"text": str(derived.budget), "cost": derived.limit},
        "seed_cost": costs.seed,
        "seed_madds": seed.madds,
        "seed_params": seed.params,
        "argmax_cost": choice.free_cost,
        "size_hw": list(problem.given_hw),
        "counted_hw": list(problem.counted_hw(derived.arch)),
        "disagreements": [asdict(row) for row in choice.disagreements],
    }
    target = {"name": name, **choice.target.to_json(), "path": list(choice.path), **info}
    files = {f"targets/{name}.json": target, f"targets/{name}.safetensors": derived.state}
    run.write(f"derive:{name}", files, info)
    return info


def run_adapt(run: Run) -> dict[str, Any]:
    """Fine-tune the network that ``adapt.arch`` and ``adapt.init`` name, and before the first the baseline."""
    config = run.config.adapt
    if run.config.baseline and config.folder == ADAPTED:
        plain = {"name": BASELINE, "arch": "seed", "init": "seed", "head_width": None, "scale": None}
        adapt_one(run, config.model_copy(update=plain))
    return adapt_one(run, config)


def adapt_one(run: Run, config: AdaptConfig) -> dict[str, Any]:
    """Fine-tune one network; its files lie in a folder of its own."""
    name = config.folder
    wanted = {**config.model_dump(mode="json"), "name": name}
    stage, record = f"adapt:{name}", f"checkpoints/{name}/adapt.json"
    if run.finished(stage):
        info = run.folder.info(stage)
        _same_settings(info["adapt"], wanted, run.path)
        say(f"{name}: finished already")
        return info
    if (run.path / record).exists():
        _same_settings(read_json(run.path / record), wanted, run.path)
    elif run.compute.world.writes:
        run.folder.write(record, wanted)
    network = start_network(run, target_named(run, config), config.init)
    logs = (run.path / name / "steps.csv", run.path / name / "scores.csv")
    tuned = adapt(network, run.problem, run.splits, run.compute, config, checkpoints=run.checkpoints(name), logs=logs)
    cost, metric = run.problem.at(network).cost(network.arch), run.problem.task.metric
    costs = {"params": cost.params, "madds": cost.madds}
    about = {**costs, "adapt": wanted, "minutes": tuned.minutes, metric: tuned.scores[metric]}
    described = describe(tuned.network, run.problem, about)
    weights = (tuned.network.state, {KEY: json.dumps(described)})
    run.write(stage, {f"{name}/{TWIN}": described, f"{name}/{WEIGHTS}": weights}, about)
    run.clear(name)
    return about


def _same_settings(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    for key in new:
        if new[key] != old.get(key):
            raise FnaError(
                f"'{new['name']}' of {path} was adapted with adapt.{key} = {old.get(key)}, now it is {new[key]}; "
                "give the new one a name of its own, e.g. --adapt.name control"
            )


def target_named(run: Run, config: AdaptConfig) -> Target:
    """Return the target that ``adapt.arch`` names, with another head width or scale if ``adapt`` has one.

    Raises:
        FnaError: it is neither a derived target, nor 'seed', nor a readable file.
    """
    name, targets = config.arch, run.names("derive")
    if name == "seed":
        target = Target(run.seed.arch)
    elif name in targets or name == run.config.derive.name:
        target = Target.from_json(run.read_json(f"targets/{name}.json", f"derive:{name}"))
    elif Path(name).is_file():
        own = load_arch(name)  # net_config text says nothing of activation, padding and the like: they are the seed's
        target = Target(replace(run.seed.arch, stem=own.stem, stages=own.stages))
    else:
        known = ["seed", *targets]
        raise FnaError(
            f"adapt.arch is '{name}'{nearest(name, known)}; expected 'seed', an architecture file or a target of this "
            f"run (there is {', '.join(targets) or 'none yet'}); make one: fna derive {run.path} --derive.name {name}"
        )
    return Target(target.arch, config.head_width or target.head_width, config.scale or target.scale)


def start_network(run: Run, target: Target, init: str) -> Network[Arch]:
    """Return a target with the weights its adaptation starts from; what is missing starts fresh.

    Args:
        run: the run.
        target: the target.
        init: ``super`` (FNA++), ``seed`` (FNA) or ``random``.
    """
    if init == "random":
        return Network(target.arch, {}, target.head_width, target.scale)
    if init == "seed":
        return remap_network(seed_network(run.seed, run.problem), target, run.problem)
    return remap_network(run.found().network, target, run.problem)


def run_evaluate(run: Run, split: str = "val") -> dict[str, Any]:
    """Score every adapted network from its saved weights on a split, and draw some of its predictions on val."""
    names = run.names("adapt")
    if not names:
        raise FnaError(f"nothing is adapted in {run.path} yet; type: fna adapt {run.path}")
    (data,) = run.data(split)
    mine = range(0, len(data), run.compute.world.size)  # records that the process that writes scores
    shown = sorted({mine[int(i)] for i in np.linspace(0, len(mine) - 1, PREDICTIONS).round()}) if split == "val" else []
    rows: dict[str, Any] = {}
    files: dict[str, Any] = {}
    predictions: dict[str, dict[int, Any]] = {name: {} for name in names}
    for name in names:
        model, began = finished_network(run, name), time.monotonic()
        scores = evaluate(
            model, model.problem, data, run.compute, label=f"score {name}", keep=shown, kept=predictions[name]
        )
        if "results" in scores:
            suffix = "" if split == "val" else f"_{split}"
            files[f"{name}/results{suffix}.json"] = _with_file_names(scores.pop("results"), data)
        seconds = (time.monotonic() - began) / len(data)
        rows[name] = _row(name, model.record, scores, seconds, run.config.engine.rng_seed)
    metrics = _metrics(run, split, rows, data)
    if split == "val":
        files |= _draw(run.problem, data, shown, {n: predictions[n] for n in (ADAPTED, BASELINE) if n in predictions})
    stage, file = ("evaluate", "metrics.json") if split == "val" else (f"evaluate:{split}", f"metrics_{split}.json")
    run.write(stage, {file: metrics, **files}, {"names": names})
    return metrics


def _metrics(run: Run, split: str, rows: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """Return what metrics.json says besides the rows."""
    searched = run.folder.info("search") if run.folder.finished("search") else {}
    train = run.recalled("train") if split == "val" else None
    opened = {split: data} | ({"train": train} if train is not None else {})
    return {
        "split": split,
        "rows": rows,
        "metric": run.problem.task.metric,
        "titles": dict(run.problem.task.titles),
        "search_minutes": searched.get("minutes"),
        "warnings": [*run.folder.info("expand")["warnings"], *searched.get("warnings", [])],
        "colors": run.problem.labels.to_json()["colors"],
        "data": {
            **{name: len(part) for name, part in opened.items()},
            "skipped": [f"{name}: {line}" for name, part in opened.items() for line in part.skipped],
            "changed": [f"{name}: {line}" for name, part in opened.items() for line in getattr(part, "changed", ())],
        },
        "settings": flatten(run.config.evaluate.model_dump(mode="json"), "evaluate."),
    }


def _with_file_names(results: Sequence[Mapping[str, Any]], data: Any) -> list[dict[str, Any]]:
    """Return COCO results with the names of their images; the numbers may be nobody's but ours."""
    ids = getattr(data, "image_id", lambda index: index + 1)
    names = {ids(i): data.name(i) for i in range(len(data))}
    return [{"file_name": names[row["image_id"]], **row} for row in results]


def _draw(
    problem: Problem, data: Any, shown: Sequence[int], predictions: Mapping[str, Mapping[int, Any]]
) -> dict[str, bytes]:
    """Return pictures of some records: the image, the truth, and what each network predicts, by file name."""
    pictures: dict[str, bytes] = {}
    for number, i in enumerate(shown):
        image, truth = data.load(i)
        picture = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        pictures[f"predictions/{number:02d}_image.png"] = png(picture)
        for kind, what in {"truth": truth, **{name: kept.get(i) for name, kept in predictions.items()}}.items():
            if what is not None:
                pictures[f"predictions/{number:02d}_{kind}.png"] = png(problem.draw(picture, what))
    return pictures


def _row(
    name: str, record: Mapping[str, Any], scores: Mapping[str, Any], seconds: float, rng_seed: int
) -> dict[str, Any]:
    config = record["adapt"]
    return {
        "title": title(name, config["arch"], config["init"]),
        **{key: config[key] for key in ("arch", "init", "epochs")},
        **{key: record[key] for key in ("params", "madds", "minutes", "head_width", "scale")},
        **scores,
        "seconds_per_image": seconds,
        "rng_seed": rng_seed,
    }


def title(name: str, arch: str, init: str) -> str:
    """Return what a row of the table is called."""
    known = {
        ("derived", "super"): "FNA++ network",
        ("derived", "seed"): "FNA network",
        ("seed", "seed"): "fine-tuned seed",
    }
    whose = {"derived": "searched architecture", "seed": "seed's architecture"}.get(arch, arch)
    text = known.get((arch, init), f"{whose}, weights: {init}")
    return text if name in (ADAPTED, BASELINE, whose) else f"{text} ({name})"


def run_report(run: Run) -> dict[str, Any]:
    """Write report.html."""
    run.write("report", {"report.html": write_report(run.path)} if run.compute.world.writes else {})
    return {"report": str(run.path / "report.html")}


STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    "expand": run_expand,
    "search": run_search,
    "derive": run_derive,
    "adapt": run_adapt,
    "evaluate": run_evaluate,
    "report": run_report,
}


def stage(run: Run, name: str, **more: Any) -> dict[str, Any]:
    """Do one stage; one that is finished is not redone (evaluate and report always are).

    Args:
        run: the run.
        name: a key of `STAGES`.
        more: of evaluate, ``split``.
    """
    if name in ("expand", "search") and run.finished(name):
        say(f"{name}: finished already")
        return run.folder.info(name)
    tell(f"{name}: begins")
    return STAGES[name](run, **more)


def run(
    folder: str | Path,
    config: Config | None = None,
    overrides: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Do the whole job in `folder`, or go on with it; see `Run.open` for the arguments.

    Returns:
        The metrics of all rows.
    """
    with Run.open(folder, config, overrides, data) as job:
        results = {name: stage(job, name) for name in STAGES}
    return results["evaluate"]


def finished_network(run: Run, name: str) -> Finished:
    """Load an adapted network of the run, placed on its device, with the run's settings of scoring.

    Raises:
        FnaError: it is not adapted yet.
    """
    record = run.read_json(f"{name}/{TWIN}", f"adapt:{name}")
    state = run.read_state(f"{name}/{WEIGHTS}", f"adapt:{name}")
    model = make_finished(record, state, run.problem.at(Target.from_json(record)), f"{name}/{WEIGHTS}")
    run.compute.place(model)
    return model
