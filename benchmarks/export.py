"""Export a trained network of each model to ONNX and hold it against torch on real images; what 8 bits cost.

    python benchmarks/export.py DATA RUNS

DATA holds the folders camvid, bccd and lspet; RUNS is where the networks are trained (a few minutes each on two cores),
or taken from where they are there already. Ratios: `models` exported and equal, the largest `max_abs_error` of all,
`int8_score_difference`, the mean over models, and torch's latency / ONNX Runtime's, batch 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import record
import torch

import fna
from fna.config import make_config
from fna.runs import pipeline
from fna.runs.run import Run

CAMVID: dict[str, Any] = {"data": {"format": "camvid", "crop": [64, 96], "eval_size": [96, 128]}}
BCCD: dict[str, Any] = {"data": {"format": "voc", "crop": [96, 128], "augment": "resize", "on_error": "fix"}}
LSPET: dict[str, Any] = {"data": {"format": "coco", "crop": [64, 64], "on_error": "fix"}}
CASES = {  # model: data, its settings, epochs
    "deeplabv3": ("camvid", CAMVID, {"channels": 64}, 2),
    "deeplabv3plus": ("camvid", CAMVID, {"channels": 64}, 2),
    "retinanet": ("bccd", BCCD, {"channels": 64, "anchor_scale": 2.0}, 4),
    "ssdlite": ("bccd", BCCD, {}, 4),
    "simple_baseline": ("lspet", LSPET, {"channels": 64, "sigma": 1.0}, 1),
}


def trained(model: str, data: Path, runs: Path) -> Path:
    """Return the folder of the plain seed, fine-tuned; trained now if it is not there."""
    folder, settings, task, epochs = CASES[model]
    head = {"head_lr": 10 if folder == "bccd" else 1, "clip": 35}
    adapt = {
        "name": "baseline",
        "arch": "seed",
        "init": "seed",
        "epochs": epochs,
        "batch_size": 8,
        "recalibrate": 4,
        "optimizer": head,
    }
    config = make_config(
        {
            "task": {"model": model, **task},
            "data": {**settings["data"], "root": str(data / folder), "allow_change": True},
            "adapt": adapt,
            "evaluate": {"every": epochs},
            "engine": {"threads": 1},
        }
    )
    if not (runs / model / "baseline" / "network.json").exists():
        with Run.open(runs / model, config) as job:
            pipeline.stage(job, "expand")
            pipeline.stage(job, "adapt")
    return runs / model / "baseline"


def main() -> None:
    """Measure and write ``results/export.json``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    words = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for model in CASES:
        network = trained(model, words.data, words.runs)
        report = fna.export(network, precision="int8")
        files = report["files"]
        rows.append(
            {
                "row": model,
                "metric": report["metric"],
                "torch_score": report["torch_score"],
                "int8_score": files["int8"]["score"],
                "max_abs_error": report["max_abs_error"],
                "predictions_equal": report["predictions_equal"],
                "images_alike": report["images_alike"],
                "checks": report["checks"],
                "size_hw": report["size_hw"],
                "torch_ms": report["torch_latency_ms"],
                **{f"{name}_ms": row["latency_ms"] for name, row in files.items()},
                **{f"{name}_bytes": row["bytes"] for name, row in files.items()},
            }
        )
        record.write("export", rows, ratios(rows))


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
