"""What a recipe is worth: the fine-tuned seed, the seed given the whole run's compute, and the FNA++ network.

Rows, all under one schedule: (a) the seed fine-tuned for N epochs; (b) the seed fine-tuned for as long as search and
adaptation took together; (c) the FNA++ network at no more than the seed's MAdds, N epochs; and a control: the seed's
architecture from the super network's weights, N epochs. Called again with the same run folder it goes on where it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import record

from fna.config import load_config
from fna.reporting.rows import charged_minutes
from fna.runs import pipeline
from fna.runs.run import Run


def compare(name: str, recipe: Path, data: str, run: str) -> Path:
    """Do all rows of a recipe and write ``results/NAME.json``.

    Args:
        name: of the result, such as ``camvid_first``.
        recipe: a file of recipes/.
        data: the data set's folder.
        run: the run folder.
    """
    config = load_config(recipe, [f"data.root={json.dumps(data)}"])
    metrics = pipeline.run(run, config)
    rows = metrics["rows"]
    epochs = config.adapt.epochs
    total = charged_minutes(rows["adapted"], metrics["search_minutes"]) + rows["adapted"]["minutes"]
    longer = round(total / (rows["baseline"]["minutes"] / epochs))
    controls = {
        "seed_long": {"arch": "seed", "init": "seed", "epochs": longer},
        "seed_super": {"arch": "seed", "init": "super", "epochs": epochs},
    }
    for control, changes in controls.items():
        overrides = [f"adapt.name={control}", *(f"adapt.{key}={value}" for key, value in changes.items())]
        with Run.open(run, None, overrides) as job:
            pipeline.stage(job, "adapt")
    with Run.open(run) as job:
        metrics = pipeline.stage(job, "evaluate")
        pipeline.stage(job, "report")
    titles = {
        "baseline": "(a) fine-tuned seed",
        "seed_long": f"(b) fine-tuned seed, {longer} epochs (the run's total compute)",
        "adapted": "(c) FNA++ network",
        "seed_super": "control: seed's architecture, super network's weights",
    }
    rows = metrics["rows"]
    ratios = {"madds_target_over_seed": rows["adapted"]["madds"] / rows["baseline"]["madds"]}
    target = json.loads((Path(run) / "targets" / "derived.json").read_text())
    more = {"warnings": metrics["warnings"]} | {key: target[key] for key in ("disagreements", "arch")}
    table = [result_row(metrics, key, title) for key, title in titles.items()]
    return record.write(name, table, ratios, search_minutes=metrics["search_minutes"], **more)


def result_row(metrics: dict[str, Any], name: str, title: str) -> dict[str, Any]:
    """Return a row of the result: the headline score, costs, and the other scores that are numbers."""
    row, metric = metrics["rows"][name], metrics["metric"]
    return {
        "row": title,
        "rng_seed": row["rng_seed"],
        "metric": metrics["titles"][metric],
        "score": row[metric],
        "params": row["params"],
        "madds": row["madds"],
        "minutes": row["minutes"] + charged_minutes(row, metrics["search_minutes"]),
        "epochs": row["epochs"],
        "scores": {key: row[key] for key in metrics["titles"] if isinstance(row.get(key), float)},
    }
