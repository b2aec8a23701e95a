"""What each part of a search is worth: `fna study parts` on CamVid with DeepLabv3, in schedules that fit two cores.

    python benchmarks/parts.py DATA RUN [--rng-seeds N] [--job-array K/N] [--write]

Does the study in RUN and writes ``results/gain_camvid_parts.json``; the same command goes on with what was interrupted.
--job-array does the K-th of N parts, beside other processes; --write does nothing but the file. DATA is the data set's
folder. The settings are the recipe's but for SETTINGS.

A ratio ``all_minus_ROW`` is what the search as set scores more than a row, as a share, in the mean over the RNG seeds
that both have: what the part is worth that the row goes without, or less than nothing of what the row has beside it.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import record
from gain import configure, told
from studies import rows_of

from fna.files import read_json
from fna.runs.study import RESULTS, plan_study, read_study, run_study

RECIPE = Path(__file__).parents[1] / "recipes" / "camvid_deeplabv3.yaml"
SETTINGS = (
    *("data.crop=[96, 128]", "data.scale=[0.375, 1.0]", "data.eval_size=[180, 240]"),
    *("search.epochs=10", "search.alpha_start=4", "search.candidates=40", "adapt.epochs=20", "evaluate.every=20"),
    *("engine.threads=1", "engine.workers=0"),
)


def write(folder: Path) -> Path:
    """Write what there is of the study."""
    done = read_json(folder / RESULTS[0])
    scores = {row["name"]: {entry["rng_seed"]: entry["score"] for entry in row["entries"]} for row in done["rows"]}
    whole = scores.pop("all")
    pairs = {name: [whole[k] - own[k] for k in own.keys() & whole.keys()] for name, own in scores.items()}
    ratios = {f"all_minus_{name}": statistics.mean(gains) for name, gains in pairs.items() if gains}
    return record.write(
        "gain_camvid_parts", rows_of(done, "camvid"), ratios, missing=done["missing"], settings=SETTINGS
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("run", type=Path)
    parser.add_argument("--rng-seeds", type=int, default=1)
    parser.add_argument("--job-array", metavar="K/N")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    with told(parser):
        study = read_study("parts")
        jobs = plan_study(study, configure(RECIPE, given.data, SETTINGS), given.run, given.rng_seeds)
        if not given.write:
            run_study(study, jobs, given.run, given.job_array)
        print(write(given.run))


if __name__ == "__main__":
    main()
