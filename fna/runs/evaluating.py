"""Scoring a run's networks from their saved weights: metrics.json, detections, and pictures of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fna.arch.target import Target
from fna.config import AdaptConfig
from fna.errors import FnaError, quoted
from fna.reporting.rows import CUT, PRUNED, RANDOM
from fna.runs.opening import flatten
from fna.runs.run import Run
from fna.runs.saved import ADAPTED, BASELINE, TWIN, WEIGHTS, make_finished
from fna.stages.evaluate import evaluate
from fna.stages.predict import Finished
from fna.stages.timing import latency
from fna.stages.writing import png
from fna.tasks.problem import Problem

PREDICTIONS = 6  # pictures in the report


def run_evaluate(run: Run, split: str = "val") -> dict[str, Any]:
    """Score every adapted network from its saved weights on a split, and draw some of its predictions on val."""
    names = run.names("adapt")
    if not names:
        raise FnaError(f"nothing is adapted in {run.path} yet; type: fna adapt {quoted(run.path)}")
    (data,) = run.data(split)
    mine = range(0, len(data), run.compute.world.size)  # records that the process that writes scores
    shown = sorted({mine[int(i)] for i in np.linspace(0, len(mine) - 1, PREDICTIONS).round()}) if split == "val" else []
    rows: dict[str, Any] = {}
    files: dict[str, Any] = {}
    predictions: dict[str, dict[int, Any]] = {name: {} for name in names}
    for name in names:
        model = finished_network(run, name)
        scores = evaluate(
            model, model.problem, data, run.compute, label=f"score {name}", keep=shown, kept=predictions[name]
        )
        if "results" in scores:
            suffix = "" if split == "val" else f"_{split}"
            files[f"{name}/results{suffix}.json"] = _with_file_names(scores.pop("results"), data)
        timed = latency(model, run.compute) if run.compute.world.rank == 0 else {}
        rows[name] = _row(name, model.record, {**scores, "latency": timed}, run.config.engine.rng_seed)
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
        "seed_madds_parts": run.problem.parts(run.seed_arch),
        "search_minutes": searched.get("minutes"),
        "search_compute_minutes": searched.get("compute_minutes"),
        "search_peak_memory": searched.get("peak_memory"),
        "warnings": [*run.folder.info("expand")["warnings"], *searched.get("warnings", []), *run.folder.made_with()],
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
    """Return pictures of some records, by file name: the image, the truth, what each network predicts, its errors."""
    pictures: dict[str, bytes] = {}
    for number, i in enumerate(shown):
        image, truth = data.load(i)
        picture = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        pictures[f"predictions/{number:02d}_image.png"] = png(picture)
        for kind, what in {"truth": truth, **{name: kept.get(i) for name, kept in predictions.items()}}.items():
            if what is not None:
                pictures[f"predictions/{number:02d}_{kind}.png"] = png(problem.draw(picture, what))
            if problem.task.draw_errors is not None and kind in predictions and what is not None:
                errors = problem.task.draw_errors(picture, what, truth)
                pictures[f"predictions/{number:02d}_{kind}_errors.png"] = png(errors)
    return pictures


def _row(name: str, record: Mapping[str, Any], scores: Mapping[str, Any], rng_seed: int) -> dict[str, Any]:
    config = {**AdaptConfig().model_dump(mode="json"), **record["adapt"]}
    return {
        "title": title(name, config["arch"], Path(config["weights"]).name if config["weights"] else config["init"]),
        **{key: config[key] for key in ("arch", "init", "epochs", "keep", "ema")},
        "epoch": record.get("epoch", config["epochs"]),
        "madds_parts": record.get("madds_parts", {}),
        **{key: record[key] for key in ("params", "madds", "minutes", "head_width", "scale")},
        **{key: record["settings"]["task"].get(key) for key in ("output_stride", "tower_depth")},
        # older folders lack these
        **{key: record.get(key, 0) for key in ("compute_minutes", "peak_memory", "frozen_params", "memory")},
        **scores,
        "rng_seed": rng_seed,
    }


def title(name: str, arch: str, init: str) -> str:
    """Return what a row of the table is called."""
    known = {
        ("derived", "super"): "FNA++ network",
        ("derived", "seed"): "FNA network",
        ("seed", "seed"): "fine-tuned seed",
        (RANDOM, "super"): "random architecture of the same cost",
        (CUT, "super"): "seed cut by hand, weights: super",
        (CUT, "seed"): "seed cut by hand, weights: seed",
        (PRUNED, "target"): "fine-tuned seed, pruned",
    }
    whose = {"derived": "searched architecture", "seed": "seed's architecture"}.get(arch, arch)
    text = known.get((arch, init), f"{whose}, weights: {init}")
    return text if name in (ADAPTED, BASELINE, whose) else f"{text} ({name})"


def finished_network(run: Run, name: str) -> Finished:
    """Load an adapted network of the run, moved to its device, with the run's settings of scoring.

    Raises:
        FnaError: it is not adapted yet.
    """
    record = run.read_json(f"{name}/{TWIN}", f"adapt:{name}")
    state = run.read_state(f"{name}/{WEIGHTS}", f"adapt:{name}")
    model = make_finished(record, state, run.problem.at(Target.from_json(record)), f"{name}/{WEIGHTS}")
    run.compute.move(model)
    return model
