"""What the demo shows, for RNG seeds 0, 1 and 2: the FNA++ network beside the fine-tuned seed at no more cost.

    python benchmarks/demo.py RUNS [RNG_SEED ...]

Runs lie in the folder RUNS, one for each RNG seed; called again it goes on where it was. With RNG seeds it does these
only, and writes the result once all three are there.

Beside the demo's own rows there is (b), the seed trained for as long as search and adaptation of (c) took together, and
(d), the seed's architecture with the super network's weights: (c) - (d) is what architecture and input size are worth,
(d) - (a) what the weights are.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import record
from first import result_row

from fna.cli import DEMO
from fna.config import load_config
from fna.runs import pipeline
from fna.runs.run import Run

RNG_SEEDS = (0, 1, 2)
TITLES = {
    "baseline": "(a) fine-tuned seed",
    "seed_long": "(b) fine-tuned seed, the run's total compute",
    "adapted": "(c) FNA++ network",
    "seed_super": "(d) seed's architecture, super network's weights",
}


def run_one(folder: Path, rng_seed: int) -> None:
    """Do the demo and its control."""
    config = load_config(None, [*DEMO, f"engine.rng_seed={rng_seed}", "engine.threads=1"])
    metrics = pipeline.run(folder, config)
    rows, epochs = metrics["rows"], config.adapt.epochs
    total = metrics["search_minutes"] + rows["adapted"]["minutes"]
    longer = round(total / (rows["baseline"]["minutes"] / epochs))
    controls = (["adapt.name=seed_super"], ["adapt.name=seed_long", "adapt.init=seed", f"adapt.epochs={longer}"])
    for control in controls:
        with Run.open(folder, None, ["adapt.arch=seed", *control]) as job:
            pipeline.stage(job, "adapt")
    with Run.open(folder) as job:
        pipeline.stage(job, "evaluate")
        pipeline.stage(job, "report")


def main() -> None:
    runs = Path(sys.argv[1])
    for rng_seed in [int(word) for word in sys.argv[2:]] or RNG_SEEDS:
        run_one(runs / str(rng_seed), rng_seed)
    rows, scores = [], {name: [] for name in TITLES}
    for rng_seed in RNG_SEEDS:
        if not (runs / str(rng_seed) / "seed_long" / "network.json").exists():
            print(f"RNG seed {rng_seed} is still to do")
            return
        metrics = json.loads((runs / str(rng_seed) / "metrics.json").read_text())
        for name, title in TITLES.items():
            rows.append(result_row(metrics, name, title))
            scores[name].append(rows[-1]["score"])
    differences = {
        "c_minus_a": [c - a for c, a in zip(scores["adapted"], scores["baseline"], strict=True)],
        "c_minus_b": [c - b for c, b in zip(scores["adapted"], scores["seed_long"], strict=True)],
        "c_minus_d": [c - d for c, d in zip(scores["adapted"], scores["seed_super"], strict=True)],
    }
    ratios = {f"{key}_mean": statistics.mean(values) for key, values in differences.items()}
    ratios |= {f"{key}_std": statistics.stdev(values) for key, values in differences.items()}
    ratios |= {f"{key}_min": min(values) for key, values in differences.items()}
    targets = [json.loads((runs / str(s) / "targets" / "derived.json").read_text()) for s in RNG_SEEDS]
    ratios["madds_target_over_seed_max"] = max(target["madds"] / target["seed_madds"] for target in targets)
    record.write("demo", rows, ratios, scales=[target["scale"] for target in targets], arch=targets[0]["arch"])


if __name__ == "__main__":
    main()
