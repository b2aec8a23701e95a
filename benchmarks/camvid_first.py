"""CamVid: the fine-tuned seed, the seed given the whole run's compute, and the FNA++ network, under one schedule.

    python benchmarks/camvid_first.py DATA RUN

DATA is the CamVid folder, RUN the run folder (the same command goes on with an interrupted one). Rows: (a) the seed
fine-tuned for N epochs; (b) the seed fine-tuned for as long as search and adaptation took together; (c) the FNA++
network at no more than the seed's MAdds, N epochs; and a control: the seed's architecture from the super network's
weights, N epochs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import record

from fna import pipeline
from fna.config import load_config

RECIPE = Path(__file__).parents[1] / "recipes" / "camvid_deeplabv3.yaml"


def main(data: str, run: str) -> None:
    """Run everything and write ``results/camvid_first.json``."""
    config = load_config(RECIPE, [f"data.root={json.dumps(data)}"])
    metrics = pipeline.run(run, config)
    rows = metrics["rows"]
    epochs = config.adapt.epochs
    total = metrics["search_minutes"] + rows["adapted"]["minutes"]
    longer = round(total / (rows["baseline"]["minutes"] / epochs))
    controls = {
        "seed_long": {"arch": "seed", "init": "seed", "epochs": longer},
        "seed_super": {"arch": "seed", "init": "super", "epochs": epochs},
    }
    for name, changes in controls.items():
        overrides = [f"adapt.name={name}", *(f"adapt.{key}={value}" for key, value in changes.items())]
        with pipeline.Run.open(run, None, overrides) as job:
            pipeline.adapt(job)
    with pipeline.Run.open(run) as job:
        metrics = pipeline.evaluate(job)
        pipeline.report(job)
    rows = metrics["rows"]
    searched = metrics["search_minutes"]
    order = {
        "baseline": "(a) fine-tuned seed",
        "seed_long": f"(b) fine-tuned seed, {longer} epochs (the run's total compute)",
        "adapted": "(c) FNA++ network",
        "seed_super": "control: seed's architecture, super network's weights",
    }
    result = [
        {
            "row": title,
            "rng_seed": rows[name]["rng_seed"],
            "metric": "mIoU",
            "score": rows[name]["miou"],
            "params": rows[name]["params"],
            "madds": rows[name]["madds"],
            "minutes": rows[name]["minutes"] + (searched if rows[name]["init"] == "super" else 0),
            "epochs": rows[name]["epochs"],
        }
        for name, title in order.items()
    ]
    ratios = {"madds_target_over_seed": rows["adapted"]["madds"] / rows["baseline"]["madds"]}
    target = json.loads((Path(run) / "target.json").read_text())
    more = {key: target[key] for key in ("disagreements", "arch")}
    record.write("camvid_first", result, ratios, search_minutes=searched, **more)


if __name__ == "__main__":
    main(*sys.argv[1:])
