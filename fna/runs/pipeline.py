"""The stages over a run folder: each reads files there and leaves files there, and a finished stage is not redone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fna.arch import Arch
from fna.arch.net_config import load_arch
from fna.config import AdaptConfig, Config
from fna.cost.madds import space_cost
from fna.data.pose.person_boxes import read_boxes
from fna.errors import FnaError, nearest
from fna.files import read_json
from fna.nets.network import Model
from fna.progress import say
from fna.remapping import summarise
from fna.reporting.page import write_report
from fna.runs.run import Run as Run
from fna.searching import search as search_arch
from fna.stages.adapt import adapt as adapt_weights
from fna.stages.derive import derive as derive_arch
from fna.stages.evaluate import evaluate as score
from fna.stages.expand import expand as expand_seed
from fna.stages.expand import network_cost, remap_model, seed_state
from fna.stages.predict import Labels, find_images, png, write_predictions
from fna.tasks import load_task
from fna.training.setting import Setting, load_weights, put

ADAPTED, BASELINE = "adapted", "baseline"
PREDICTIONS = 6  # pictures in the report


def expand(run: Run) -> dict[str, Any]:
    """Grow the seed into a super network and remap its weights (FNA++ section 3.2.1)."""
    seed, setting = run.seed, run.setting
    expanded = expand_seed(setting)
    strided = setting.task.prepare(expanded.arch, run.config.task)
    info = {
        "size": str(expanded.arch.size),
        "searchable_layers": len(expanded.arch.searchable),
        "searchable_madds": asdict(space_cost(strided, expanded.costs.table)),
        "seed_madds": expanded.costs.seed.madds,
        "warnings": list(expanded.warnings),
    }
    for warning in expanded.warnings:
        say(f"expand: {warning}")
    about = {key: getattr(seed, key) for key in ("name", "mean", "std", "source", "licence", "top1")}
    run.write(
        "expand",
        {
            "seed.json": {**about, "arch": seed.arch.to_json()},
            "seed.safetensors": seed_state(setting),
            "super.json": expanded.arch.to_json(),
            "super.safetensors": expanded.state,
            "remap.json": summarise(expanded.report),
        },
        info,
    )
    return info


def search(run: Run) -> dict[str, Any]:
    """Adapt the architecture on the target task (FNA++ section 3.2.2)."""
    arch, costs = run.super_arch, run.costs
    found = search_arch(
        arch,
        {**put(run.read_state("super.safetensors", "expand"), "backbone"), **run.setting.head_start()},
        costs.table,
        costs.other,
        costs.budget,
        run.setting,
        checkpoints=run.checkpoints("search"),
        logs=run.logs("search.csv", "entropy.csv"),
    )
    named = {
        f"{s}.{n}": dict(zip((block.label for block in candidates), values, strict=True))
        for ((s, n), candidates), values in zip(arch.layers(), found.alphas, strict=True)
        if len(candidates) > 1
    }
    for warning in found.warnings:
        say(f"search: {warning}")
    info = {"minutes": found.minutes, "warnings": list(found.warnings), "epochs": run.config.search.epochs}
    run.write("search", {"alphas.json": {"layers": named}, "searched.safetensors": found.state}, info)
    run.clear("search")
    return info


def derive(run: Run) -> dict[str, Any]:
    """Choose the target architecture and collect its weights from the super network (FNA++ section 3.2.3)."""
    named = run.read_json("alphas.json", "search")["layers"]
    arch, costs = run.super_arch, run.costs
    alphas = [
        [named[f"{s}.{n}"][block.label] for block in candidates] if len(candidates) > 1 else [0.0]
        for (s, n), candidates in arch.layers()
    ]
    derived = derive_arch(arch, alphas, costs.table, costs.budget)
    cost = network_cost(derived.arch, run.setting, costs.size_hw)
    info = {
        "madds": cost.madds,
        "params": cost.params,
        "budget": None if costs.budget is None else costs.budget + costs.other,
        "seed_madds": costs.seed.madds,
        "seed_params": costs.seed.params,
        "argmax_madds": derived.argmax_cost + costs.other,
        "size_hw": list(costs.size_hw),
        "disagreements": [asdict(row) for row in derived.disagreements],
    }
    target = {"arch": derived.arch.to_json(), "path": list(derived.path), **info}
    run.write("derive", {"target.json": target, "target.safetensors": start_weights(run, derived.arch, "super")}, info)
    return info


def adapt(run: Run) -> dict[str, Any]:
    """Fine-tune the network that ``adapt.arch`` and ``adapt.init`` name, and before the first the baseline."""
    config = run.config.adapt
    if run.config.baseline and config.name == ADAPTED:
        adapt_one(run, config.model_copy(update={"name": BASELINE, "arch": "seed", "init": "seed"}))
    return adapt_one(run, config)


def adapt_one(run: Run, config: AdaptConfig) -> dict[str, Any]:
    """Fine-tune one network; its files are named after ``config.name``."""
    stage, wanted = f"adapt:{config.name}", config.model_dump(mode="json")
    record = f"checkpoints/{config.name}/adapt.json"
    if run.folder.finished(stage):
        info = run.folder.info(stage)
        _same_settings(info["config"], wanted, run.path)
        say(f"{config.name}: finished already")
        return info
    if (run.path / record).exists():
        _same_settings(read_json(run.path / record), wanted, run.path)
    elif run.compute.world.writes:
        run.folder.write_json(record, wanted)
    arch, setting = network_named(run, config.arch), run.setting
    adapted = adapt_weights(
        arch,
        start_weights(run, arch, config.init),
        config,
        setting,
        checkpoints=run.checkpoints(config.name),
        logs=run.logs(f"{config.name}.csv", f"{config.name}_scores.csv"),
    )
    cost = network_cost(arch, setting, run.costs.size_hw)
    info = {
        "config": wanted,
        "minutes": adapted.minutes,
        "params": cost.params,
        "madds": cost.madds,
        setting.task.metric: adapted.scores[setting.task.metric],
        "labels": Labels.of(setting.val).to_json(),
    }
    files = {f"{config.name}.json": {"arch": arch.to_json(), **info}, f"{config.name}.safetensors": adapted.state}
    run.write(stage, files, info)
    run.clear(config.name)
    return info


def _same_settings(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    for key in new:
        if new[key] != old.get(key):
            raise FnaError(
                f"'{new['name']}' of {path} was adapted with adapt.{key} = {old.get(key)}, now it is {new[key]}; "
                "give the new one a name of its own, e.g. --adapt.name control"
            )


def network_named(run: Run, name: str) -> Arch:
    """Return the architecture that ``adapt.arch`` names.

    Raises:
        FnaError: it is neither derived yet, nor 'seed', nor a readable file.
    """
    if name == "derived":
        return Arch.from_json(run.read_json("target.json", "derive")["arch"])
    if name == "seed":
        return run.seed.arch
    if not Path(name).exists():
        hint = nearest(name, ("derived", "seed"))
        raise FnaError(f"adapt.arch is '{name}'{hint}; expected 'derived', 'seed' or an architecture file")
    # net_config text says nothing of activation, padding and the like: they are the seed's
    return replace(run.seed.arch, stem=load_arch(name).stem, stages=load_arch(name).stages)


def start_weights(run: Run, arch: Arch, init: str) -> dict[str, Tensor]:
    """Return the weights an adaptation of `arch` starts from; what is missing starts fresh.

    Args:
        run: the run.
        arch: the architecture.
        init: ``super`` (FNA++), ``seed`` (FNA) or ``random``.
    """
    if init == "random":
        return {}
    if init == "seed":
        state = {**put(run.read_state("seed.safetensors", "expand"), "backbone"), **run.setting.head_start()}
        return remap_model(run.seed.arch, state, arch, run.setting)
    return remap_model(run.super_arch, run.read_state("searched.safetensors", "search"), arch, run.setting)


def evaluate(run: Run) -> dict[str, Any]:
    """Score every adapted network from its saved weights and draw some of their predictions."""
    stages = run.folder.stages()
    names = [stage.removeprefix("adapt:") for stage in stages if stage.startswith("adapt:")]
    if not names:
        raise FnaError(f"nothing is adapted in {run.path} yet; type: fna adapt {run.path}")
    setting = run.setting
    mine = range(0, len(setting.val), run.compute.world.size)  # images that the process that writes scores
    shown = sorted({mine[int(i)] for i in np.linspace(0, len(mine) - 1, PREDICTIONS).round()})
    rows: dict[str, Any] = {}
    files: dict[str, Any] = {}
    predictions: dict[str, dict[int, Any]] = {}
    for name in names:
        record = run.read_json(f"{name}.json", f"adapt:{name}")
        predictions[name] = {}
        model, began = load_network(run, setting, name), time.monotonic()
        scores = score(model, setting, label=f"score {name}", keep=shown, kept=predictions[name])
        if "results" in scores:
            files[f"{name}_results.json"] = _with_file_names(scores.pop("results"), setting.val)
        seconds = (time.monotonic() - began) / len(setting.val)
        rows[name] = _row(name, record, scores, seconds, run.config.engine.rng_seed)
    searched = run.folder.info("search") if "search" in stages else {}
    metrics = {
        "rows": rows,
        "metric": setting.task.metric,
        "titles": dict(setting.task.titles),
        "search_minutes": searched.get("minutes"),
        "warnings": [*run.folder.info("expand")["warnings"], *searched.get("warnings", [])],
        "colors": Labels.of(setting.val).to_json()["colors"],
        "data": {
            "train": len(setting.train),
            "val": len(setting.val),
            "skipped": [
                f"{split}: {line}"
                for split, data in ((run.config.data.train, setting.train), (run.config.data.val, setting.val))
                for line in data.skipped
            ],
        },
    }
    drawn = _draw(setting, shown, {name: predictions[name] for name in (ADAPTED, BASELINE) if name in predictions})
    run.write("evaluate", {"metrics.json": metrics, **files, **drawn}, {"names": names})
    return metrics


def _with_file_names(results: Sequence[Mapping[str, Any]], data: Any) -> list[dict[str, Any]]:
    """Return COCO results with the names of their images; the numbers may be nobody's but ours."""
    names = {data.image_id(i): data.name(i) for i in range(len(data))}
    return [{"file_name": names[row["image_id"]], **row} for row in results]


def _draw(setting: Setting, shown: Sequence[int], predictions: Mapping[str, Mapping[int, Any]]) -> dict[str, bytes]:
    """Return pictures of some records: the image, the truth, and what each network predicts, by file name."""
    pictures: dict[str, bytes] = {}
    for number, i in enumerate(shown):
        image, truth = setting.val.load(i)
        picture = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        pictures[f"predictions/{number:02d}_image.png"] = png(picture)
        for kind, what in {"truth": truth, **{name: kept.get(i) for name, kept in predictions.items()}}.items():
            if what is not None:
                drawn = setting.task.draw(picture, what, setting.val, setting.config)
                pictures[f"predictions/{number:02d}_{kind}.png"] = png(drawn)
    return pictures


def _row(
    name: str, record: Mapping[str, Any], scores: Mapping[str, Any], seconds: float, rng_seed: int
) -> dict[str, Any]:
    config = record["config"]
    return {
        "title": title(name, config["arch"], config["init"]),
        **{key: config[key] for key in ("arch", "init", "epochs")},
        **{key: record[key] for key in ("params", "madds", "minutes")},
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
    return text if name in (ADAPTED, BASELINE) else f"{text} ({name})"


def report(run: Run) -> dict[str, Any]:
    """Write report.html."""
    run.write("report", {"report.html": write_report(run.path)} if run.compute.world.writes else {})
    return {"report": str(run.path / "report.html")}


STAGES: dict[str, Callable[[Run], dict[str, Any]]] = {
    "expand": expand,
    "search": search,
    "derive": derive,
    "adapt": adapt,
    "evaluate": evaluate,
    "report": report,
}


def stage(run: Run, name: str) -> dict[str, Any]:
    """Do one stage; one that is finished is not redone (evaluate and report always are)."""
    if name in ("expand", "search", "derive") and run.folder.finished(name):
        say(f"{name}: finished already")
        return run.folder.info(name)
    return STAGES[name](run)


def run(folder: str | Path, config: Config | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Do the whole job in `folder`, or go on with it.

    Returns:
        The metrics of all rows.
    """
    with Run.open(folder, config, overrides) as job:
        results = {name: stage(job, name) for name in STAGES}
    return results["evaluate"]


def load_network(run: Run, setting: Setting, name: str) -> Model:
    """Build an adapted network of the run with its weights, placed on the device.

    Raises:
        FnaError: it is not adapted yet.
    """
    arch = Arch.from_json(run.read_json(f"{name}.json", f"adapt:{name}")["arch"])
    model = setting.build(arch)
    load_weights(model, run.read_state(f"{name}.safetensors", f"adapt:{name}"), f"{name}.safetensors")
    setting.compute.place(model)
    return model


def predict(
    folder: str | Path, images: str | Path, out: str | Path, name: str = ADAPTED, boxes: str | Path | None = None
) -> dict[str, Any]:
    """Run an adapted network of a run folder on a folder of images; write a picture of each prediction.

    Args:
        folder: the run.
        images: folder of images.
        out: folder of the pictures and, for detections and poses, of results.json (COCO's results format).
        name: the adaptation.
        boxes: for poses, a COCO json or results file of persons' boxes; None: each image is one person.

    Raises:
        FnaError: the network is not adapted yet, the folder has no image, or a file cannot be read.
    """
    paths = find_images(Path(images))
    found = read_boxes(Path(boxes), paths) if boxes else None
    with Run.open(folder) as job:
        if boxes and job.config.task.name != "pose":
            raise FnaError(f"--boxes are of persons, for pose; this run is of {job.config.task.name}: leave it out")
        record = job.read_json(f"{name}.json", f"adapt:{name}")
        labels = Labels.from_json(record.get("labels", record))
        setting = Setting(job.config, job.compute, load_task(job.config.task.name), job.seed, labels, labels)
        return write_predictions(load_network(job, setting, name), setting, paths, Path(out), found)
