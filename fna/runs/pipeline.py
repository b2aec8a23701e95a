"""The stages over a run folder: load what a stage needs, call it, keep what it returns; nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fna.arch import Arch
from fna.arch.net_config import load_arch
from fna.arch.target import Form, Target
from fna.config import AdaptConfig, Config
from fna.config.budgets import UNITS, parse_budget
from fna.cost.madds import space_cost
from fna.errors import FnaError
from fna.files import decode_json
from fna.nets.weights import Network, backbone_only, put, take
from fna.progress import say, tell
from fna.remapping import summarise
from fna.reporting.page import write_report
from fna.reporting.rows import measured_text
from fna.runs.evaluating import run_evaluate
from fna.runs.foreseeing import foresee, no_target
from fna.runs.run import Run, seed_json
from fna.runs.saved import ADAPTED, BASELINE, KEY, TWIN, WEIGHTS, describe
from fna.searching.alphas import check_settings, search
from fna.seeds import backbone_weights
from fna.stages.adapt import adapt
from fna.stages.derive import Derived, derive
from fna.stages.expand import expand, remap_network, seed_network, seed_state
from fna.stages.latency import remeasure
from fna.training import distributed

PLAIN_SEED = {"arch": "seed", "init": "seed", **dict.fromkeys(Form._fields)}  # settings of adapt


def run_expand(run: Run) -> dict[str, Any]:
    """Expand the seed of a run."""
    problem, config = run.problem, run.config
    check_settings(config.search)
    expanded = expand(run.seed, problem)
    foresee(run, expanded.arch)
    budget = None if config.search.budget is None else parse_budget(config.search.budget)
    costs = problem.costs(expanded.arch, budget.cost if budget else "madds")
    latencies = problem.latencies().digest if budget and budget.cost == "latency" else None
    info: dict[str, Any] = {
        "latencies": latencies,
        "size": str(expanded.arch.size),
        "searchable_layers": len(expanded.arch.searchable),
        "seed_cost": costs.seed,
        "unit": costs.unit,
        "warnings": list(expanded.warnings),
    }
    if costs.additive:
        info["searchable_cost"] = asdict(space_cost(problem.prepared(expanded.arch), costs.table))
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
    latencies = run.folder.info("expand").get("latencies")
    if latencies and latencies != run.problem.latencies().digest:
        raise FnaError(
            f"{run.problem.latencies().path} is not the latency table {run.path} was started with; put that back, or "
            "start in another folder with --run"
        )
    run.begin("search")
    found = search(run.expanded(), run.problem, train, run.compute, checkpoints=run.checkpoints("search"), logs=logs)
    info = {**found.spent.to_json(), "warnings": list(found.warnings), "epochs": run.config.search.epochs}
    run.write("search", {"found.json": found.to_json(), "found.safetensors": found.network.state}, info, logs)
    run.clear("search")
    return info


def run_derive(run: Run) -> dict[str, Any]:
    """Derive the target that ``derive.name`` names, within ``derive.budget``."""
    own, search = run.config.derive, run.config.search
    budget = own.budget if own.budget is not None else search.budget
    wanted = {"budget": budget, "chooser": own.chooser or search.chooser}
    kept = kept_target(run, own.name, wanted)
    return kept or keep_target(run, own.name, wanted, derive(run.found(), run.problem, budget))


def kept_target(run: Run, name: str, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a target that is there already costs.

    Args:
        run: the run.
        name: of the target.
        wanted: ``budget`` and ``chooser`` that it must have been derived with.

    Raises:
        FnaError: it was derived otherwise.
    """
    if not run.finished(f"derive:{name}"):
        return None
    info = run.folder.info(f"derive:{name}")
    before, now = (None if b is None else parse_budget(b) for b in (info["wanted"]["budget"], wanted["budget"]))
    chooser = info["wanted"]["chooser"]
    if before != now or chooser != wanted["chooser"]:
        raise FnaError(
            f"target '{name}' of {run.path} was derived with the budget {before} by '{chooser}', now it is {now} "
            f"by '{wanted['chooser']}'; give the new one a name of its own, e.g. --derive.name {name}_2"
        )
    say(f"derive: '{name}' is there already")
    return info


def keep_target(run: Run, name: str, wanted: Mapping[str, Any], derived: Derived) -> dict[str, Any]:
    """Write a target that was derived as `wanted`; return what it costs."""
    choice, costs, problem = derived.choice, derived.costs, run.problem.at(derived)
    assert choice is not None
    assert costs is not None
    assert derived.cost is not None
    seed = run.problem.cost(run.seed.arch)
    info = {
        "wanted": wanted,
        "cost": choice.cost,
        "unit": costs.unit,
        "madds": derived.cost.madds,
        "params": derived.cost.params,
        "memory": problem.whole(derived.arch, "memory"),
        "budget": None if derived.limit is None else {"text": str(derived.budget), "cost": derived.limit},
        "seed_cost": costs.seed,
        "seed_madds": seed.madds,
        "seed_params": seed.params,
        "seed_memory": run.problem.whole(run.seed.arch, "memory"),
        "madds_parts": problem.parts(derived.arch),
        "seed_madds_parts": run.problem.parts(run.seed_arch),
        "argmax_cost": choice.free_cost if wanted["chooser"] == "alphas" else None,
        "size_hw": list(problem.given_hw),
        "counted_hw": list(problem.counted_hw(derived.arch)),
        "disagreements": [asdict(row) for row in choice.disagreements],
    }
    if UNITS[costs.unit] == "latency":
        info["latency"] = timed = remeasure(run.problem, run.seed_arch, choice.target)
        say(f"derive: '{name}' {measured_text(timed)}")
    target = {"name": name, **choice.target.to_json(), "path": list(choice.path), **info}
    for other in run.names("derive"):
        if not run.folder.finished(f"derive:{other}"):  # as this process sees it: it may be here after the first wrote
            continue  # its file was removed, as that of this one may have been
        if Target.from_json(run.read_json(f"targets/{other}.json", f"derive:{other}")) == choice.target:
            say(f"derive: '{name}' is the same network as '{other}'")
    files = {f"targets/{name}.json": target, f"targets/{name}.safetensors": derived.state}
    run.write(f"derive:{name}", files, info)
    return info


def run_adapt(run: Run) -> dict[str, Any]:
    """Fine-tune the network that ``adapt.arch`` and ``adapt.init`` name, and before the first the baseline."""
    config = run.config.adapt
    if run.config.baseline and config.folder == ADAPTED:
        adapt_one(run, config.model_copy(update={"name": BASELINE, **PLAIN_SEED}))
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
    if (run.path / record).exists() and run.checkpoints(name).steps():  # as long as nothing is learned, they may change
        _same_settings(decode_json(run.path / record, run.folder.read(record)), wanted, run.path)
    elif run.compute.world.writes:
        run.folder.keep(record, wanted)
    network = start_network(run, target_named(run, config), config.init, config.arch)
    if config.weights is not None:
        network = replace(network, state=put(backbone_only(backbone_weights(config.weights, network.arch)), "backbone"))
    logs = (run.path / name / "steps.csv", run.path / name / "scores.csv")
    run.begin(stage)
    tuned = adapt(network, run.problem, run.splits, run.compute, config, checkpoints=run.checkpoints(name), logs=logs)
    problem, metric = run.problem.at(network), run.problem.task.metric
    cost, memory = problem.cost(network.arch), problem.whole(network.arch, "memory")
    costs = {"params": cost.params, "madds": cost.madds, "memory": memory, "madds_parts": problem.parts(network.arch)}
    costs["frozen_params"] = tuned.frozen_params
    about = {**costs, "adapt": wanted, **tuned.spent.to_json(), "epoch": tuned.epoch, metric: tuned.scores[metric]}
    described = describe(tuned.network, run.problem, about)
    weights = (tuned.network.state, {KEY: json.dumps(described)})
    run.write(stage, {f"{name}/{TWIN}": described, f"{name}/{WEIGHTS}": weights}, about, logs)
    run.clear(name)
    return distributed.first(about)  # the time it took is that of the process that wrote it


def _same_settings(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    old = {**AdaptConfig().model_dump(mode="json"), **old}  # a setting that was not there yet has its default
    for key in new:
        if new[key] != old[key]:
            raise FnaError(
                f"'{new['name']}' of {path} was adapted with adapt.{key} = {old[key]}, now it is {new[key]}; "
                "give the new one a name of its own, e.g. --adapt.name control"
            )


def target_named(run: Run, config: AdaptConfig) -> Target:
    """Return the target that ``adapt.arch`` names, in the form that ``adapt`` gives it where it says so.

    Raises:
        FnaError: it is neither a derived target, nor 'seed', nor a readable file.
    """
    name, targets = config.arch, run.names("derive")
    if name == "seed":
        target = Target(run.seed.arch)
    elif name in targets or name == run.config.derive.name:
        target = Target.from_json(run.read_json(f"targets/{name}.json", f"derive:{name}"))
    elif Path(name).expanduser().is_file():
        # net_config text says nothing of activation, padding and the like: they are the seed's
        own = load_arch(Path(name).expanduser())
        target = Target(replace(run.seed.arch, stem=own.stem, stages=own.stages))
    else:
        raise no_target(run, name)
    form = Form(*(getattr(config, key) or getattr(target, key) for key in Form._fields))
    return replace(target, **run.problem.own(form)._asdict())


def start_network(run: Run, target: Target, init: str, name: str = "") -> Network[Arch]:
    """Return a target with the weights its adaptation starts from; what is missing starts fresh.

    Args:
        run: the run.
        target: the target.
        init: ``super`` (FNA++), ``seed`` (FNA), ``target`` or ``random``.
        name: of the derived target that it is, whose own weights ``target`` means.

    Raises:
        FnaError: `init` is ``target``, and it is no derived target.
    """
    if init == "random":
        return Network(target.arch, {}, *target.form)
    if init == "seed":
        return remap_network(seed_network(run.seed, run.problem), target, run.problem)
    if init == "target":
        if name not in run.names("derive"):
            raise FnaError(f"adapt.init 'target' is of a derived target; adapt.arch is '{name}': give super or seed")
        own = Target.from_json(run.read_json(f"targets/{name}.json", f"derive:{name}"))
        state = run.read_state(f"targets/{name}.safetensors", f"derive:{name}")
        return remap_network(Network(own.arch, state, *own.form), target, run.problem)
    return remap_network(run.found().network, target, run.problem)


def run_report(run: Run) -> dict[str, Any]:
    """Write report.html.

    Raises:
        FnaError: once it is written, files of the run are not as they were left; their sections say so instead.
    """
    run.begin("report", computes=False)
    wrong = run.folder.damages() if run.writes else []
    run.write("report", {"report.html": write_report(run.path)} if run.writes else {})
    if wrong:
        raise FnaError("\n".join([f"{run.path / 'report.html'} is written, without what is damaged:", *wrong]))
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
