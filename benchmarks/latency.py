"""A budget in milliseconds: is what a table predicts what is measured, and what does a faster network score?

    python benchmarks/latency.py RECIPE DATA RUN [--budget "0.75x latency"] [--networks 30] [--check] [key=value ...]

On one thread of this CPU, in ONNX Runtime: every distinct block of the recipe's space is measured once, into
RUN_latency.json; random networks are measured beside what that predicts for them; and then the recipe is run in RUN
within the budget, its target and the seed measured in turns. --check stops before the run. Writes
``results/latency.json``, where ``score_difference`` is the target's score less the fine-tuned seed's, in points. Called
again it goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import record
from gain import arguments, configure, told

from fna.arch.target import Target
from fna.config import Config
from fna.config.budgets import NS_PER_MS
from fna.cost.latency import LatencyTable, read_latencies
from fna.runs import pipeline
from fna.runs.planning import find_basis, space_of
from fna.runs.run import Run
from fna.runs.saved import ADAPTED, BASELINE
from fna.searching.forms import forms_of
from fna.seeds import load_seed
from fna.stages.latency import bench, check, measure_space, remeasure

ROUNDS = 15


def predict_and_measure(config: Config, file: Path, number: int) -> dict[str, Any]:
    """Measure what the table lacks, then random networks beside their prediction."""
    problem, seed = find_basis(config).problem, load_seed(config.seed.name, None)
    space = space_of(problem, seed.arch)
    with bench(threads=1, backend="onnxruntime") as here:
        before = read_latencies(file) if file.exists() else LatencyTable(here.machine, {}, str(file))
        table = measure_space(problem, space, forms_of(config), before, here, ROUNDS)
        return check(problem, space, table, here, number, ROUNDS)


def compare(run: Path, config: Config) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Do the run; return the rows of seed and target, and both measured in turns."""
    metrics = pipeline.run(run, config)
    with Run.open(run) as job:
        target = Target.from_json(job.read_json("targets/derived.json", "derive:derived"))
        timed = remeasure(job.problem, job.seed_arch, target, ROUNDS)
        metric, seed_ms = job.problem.task.metric, job.problem.whole(job.seed_arch, "latency") / NS_PER_MS
    ms = {
        BASELINE: {"predicted_ms": seed_ms, "measured_ms": timed["seed_measured_ms"]},
        ADAPTED: {"predicted_ms": timed["predicted_ms"], "measured_ms": timed["measured_ms"]},
    }
    titles = {BASELINE: "fine-tuned seed", ADAPTED: f"network within {config.search.budget}"}
    shown = ("params", "madds", "minutes", "head_width", "scale")
    rows = [
        {"row": title, "rng_seed": config.engine.rng_seed, "metric": metric, "score": metrics["rows"][name][metric]}
        | {key: metrics["rows"][name][key] for key in shown}
        | ms[name]
        for name, title in titles.items()
    ]
    return rows, timed


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--budget", default="0.75x latency")
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_intermixed_args()
    with told(parser):
        file = given.run.with_name(f"{given.run.name}_latency.json")
        table = [f"search.latency_table={file}", f"search.budget={given.budget}"]
        config = configure(given.recipe, given.data, [*table, "engine.threads=1", *given.settings])
        checked = predict_and_measure(config, file, given.networks)
        ratios = {key: checked.pop(key) for key in ("error_percent", "error_percent_max", "r2", "kendall_tau")}
        more = {"check": checked, "machine_of_table": read_latencies(file).machine}
        rows: list[dict[str, Any]] = []
        if not given.check:
            rows, more["target"] = compare(given.run, config)
            seed, found = rows
            ratios["speedup"] = seed["measured_ms"] / found["measured_ms"]
            ratios["score_difference"] = 100 * (found["score"] - seed["score"])
        print(record.write("latency", rows, ratios, **more))


if __name__ == "__main__":
    main()
