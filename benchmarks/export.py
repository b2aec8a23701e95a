"""Export a trained network of each model to ONNX and hold it against torch on real images; what 8 bits cost.

    python benchmarks/export.py DATA RUNS

DATA holds the folder bccd; street scenes and their people are drawn. RUNS is where the networks are trained, some
minutes each on one thread. The same command goes on where it was interrupted; to measure again, delete the folders
RUNS/*/baseline/onnx. Ratios: `models` exported and equal, the largest `max_abs_error` of all, `int8_score_difference`,
the mean over models, and torch's latency / ONNX Runtime's: one image, one thread, the median of runs in turns. `load`
is the machine's then.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import record
import torch

import fna
from fna.config import Config, make_config
from fna.runs import pipeline
from fna.runs.run import Run

STREET = {"format": "synthetic", "images": 128, "crop": [96, 128], "color_jitter": 0.0}
CELLS = {"format": "voc", "root": "bccd", "crop": [120, 160], "scale": [0.8, 1.2], "augment": "resize"}
PEOPLE = {"format": "synthetic", "images": 800, "crop": [96, 64], "scale": [1.0, 1.0], "color_jitter": 0.0}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], int]] = {  # head, data, optimizer, epochs
    "deeplabv3": ({"channels": 64}, STREET, {}, 20),
    "deeplabv3plus": ({"channels": 64}, STREET, {}, 20),
    "retinanet": ({"channels": 64, "anchor_scale": 2.0}, CELLS | {"on_error": "fix"}, {"clip": 35.0}, 15),
    "ssdlite": ({}, CELLS | {"on_error": "fix"}, {"clip": 35.0, "head_lr": 10.0}, 20),
    "simple_baseline": (
        *({"channels": 64, "sigma": 1.5}, PEOPLE | {"rotation": 0.0, "half_body": 0.0, "box_padding": 1.15}),
        *({"head_lr": 3.0, "warmup": 50}, 10),
    ),
}


def settings(model: str, data: Path) -> Config:
    """Return the settings of the plain seed, fine-tuned with a model's head."""
    task, cut, optimizer, epochs = CASES[model]
    root = {"root": str(data / cut["root"])} if "root" in cut else {}
    plain = {"name": "baseline", "arch": "seed", "init": "seed", "epochs": epochs, "batch_size": 8}
    return make_config(
        {
            "task": {"model": model, **task},
            "data": {**cut, **root},
            "adapt": {**plain, "optimizer": optimizer},
            "evaluate": {"every": epochs, "batch_size": 8},
            "engine": {"threads": 1, "device": "cpu"},
        }
    )


def trained(model: str, data: Path, runs: Path) -> Path:
    """Return the folder of a model's network; what is missing of its training is done now."""
    with Run.open(runs / model, settings(model, data)) as job:
        for stage in ("expand", "adapt"):
            pipeline.stage(job, stage)
    return runs / model / "baseline"


def measured(model: str, data: Path, runs: Path) -> dict[str, Any]:
    """Return the row of a model's network, which is exported now if it is not yet."""
    network = trained(model, data, runs)
    done = network / "onnx" / "export.json"
    report = json.loads(done.read_text()) if done.exists() else fna.export(network, precision="int8")
    same = ("metric", "torch_score", "max_abs_error", "predictions_equal", "checks", "size_hw", "threads", "load")
    return {
        "row": model,
        **{key: report[key] for key in same},
        "int8_score": report["files"]["int8"]["score"],
        "torch_ms": report["torch_latency_ms"],
        **{f"{name}_ms": row["latency_ms"] for name, row in report["files"].items()},
        **{f"{name}_bytes": row["bytes"] for name, row in report["files"].items()},
    }


def main() -> None:
    """Measure and write ``results/export.json``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    words = parser.parse_args()
    torch.set_num_threads(1)
    for model in CASES:  # the training first: it would disturb the clock
        trained(model, words.data, words.runs)
    rows = []
    for model in CASES:
        rows.append(measured(model, words.data, words.runs))
        print(record.write("export", rows, ratios(rows)))


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return what the rows say together."""
    return {
        "models": len(rows),
        "max_abs_error": max(row["max_abs_error"] for row in rows),
        "int8_score_difference": sum(row["int8_score"] - row["torch_score"] for row in rows) / len(rows),
        **{f"{row['row']}_int8_score_difference": row["int8_score"] - row["torch_score"] for row in rows},
        **{f"{row['row']}_torch_over_onnx_ms": row["torch_ms"] / row["fp32_ms"] for row in rows},
        **{f"{row['row']}_torch_over_int8_ms": row["torch_ms"] / row["int8_ms"] for row in rows},
    }


if __name__ == "__main__":
    main()
