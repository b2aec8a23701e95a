"""COCO 128: a small RetinaNet learns its 64 training images by heart, which proves data, loss, decoding and metric.

    python benchmarks/coco128_overfit.py DATA RUN [--epochs 60] [key.path=value ...]

DATA is the folder of coco128, RUN the run folder (the same command goes on with an interrupted one). All training
images, of all 80 classes, are scored on after the training; the aim is an AP50 of at least 0.9. The result is
``results/coco128_overfit.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import record

from fna.config import make_config, merge
from fna.reporting.controls import entry
from fna.runs import pipeline
from fna.runs.run import Run

SETTINGS: dict[str, Any] = {
    "seed": {"name": "efficientnet_lite0"},
    "task": {"model": "retinanet", "channels": 64, "anchor_scale": 2.0},
    "data": {
        "format": "coco",
        "train": "train",
        "val": "train",  # scored on what it learned from
        "crop": [256, 320],
        "scale": [1.0, 1.0],
        "augment": "resize",
        "flip": False,
        "color_jitter": 0.0,
        "on_error": "fix",
    },
    "adapt": {
        "name": "overfit",
        "arch": "seed",
        "init": "seed",
        "epochs": 60,
        "batch_size": 4,
        "recalibrate": 16,
        "bn": "frozen",
        # With frozen norms, a rate that suits the new head would ruin the pretrained layers of stride 32.
        "optimizer": {
            **{"name": "adamw", "lr": 2e-4, "head_lr": 5.0, "weight_decay": 0.0, "warmup": 50, "clip": 35.0},
        },
    },
    "baseline": False,
    "evaluate": {"batch_size": 8, "every": 20},
    "engine": {"workers": 1},
}


def main(data: str, run: str, epochs: int, overrides: list[str]) -> Path:
    """Train, score on the training images, and write the result."""
    given = [f"data.root={json.dumps(data)}", f"adapt.epochs={epochs}", *overrides]
    config = make_config(merge(SETTINGS, given))
    with Run.open(run, config) as job:
        pipeline.stage(job, "expand")
        pipeline.stage(job, "adapt")
        metrics = pipeline.stage(job, "evaluate")
        images = len(job.splits.train)
    title = f"RetinaNet, {images} images, {epochs} epochs"
    row = entry(metrics, metrics["rows"]["overfit"], title, config.engine.rng_seed)
    ratios = {"train_ap50": row["scores"]["map50"]}
    return record.write("coco128_overfit", [row], ratios, settings=SETTINGS, overrides=overrides)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("run")
    parser.add_argument("--epochs", type=int, default=SETTINGS["adapt"]["epochs"])
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    print(main(given.data, given.run, given.epochs, given.overrides))
