"""The article's studies, on CamVid (DeepLabv3) and on BCCD (SSDLite), in schedules that fit two cores.

    python benchmarks/studies.py camvid|bccd DATA RUNS [--rng-seeds N] [--only STUDY]... [--write]

Does every study that comes with fna on one of the two data sets, in RUNS/DATASET/STUDY, all studies of an RNG seed
before the next, and writes ``results/study_tableNN.json`` after each: the rows of both data sets as far as they are
there; `missing` says which are not. The same command goes on with what was interrupted; --only does some studies;
--write does nothing but the files. DATA is the data set's folder.

The settings are the recipe's but for what SETTINGS says: small images, a few epochs, and the article's own space (the
seed's input and head), in which its tables were made.

Rows that two studies have in common are trained once: see SAME.

Ratios are differences of the headline score, as shares, to the row that REFERENCES names, means over the RNG seeds that
both have.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import record
from gain import configure, told

from fna.errors import pick
from fna.files import read_json
from fna.runs.study import RESULTS, known_studies, plan_study, read_study, run_study

RECIPES = {"camvid": "camvid_deeplabv3", "bccd": "bccd_ssdlite"}
SETTINGS = {
    "camvid": (
        *("data.crop=[96, 128]", "data.scale=[0.375, 1.0]", "data.eval_size=[180, 240]"),
        *("search.epochs=6", "adapt.epochs=6", "evaluate.every=6"),
    ),
    "bccd": ("data.crop=[192, 256]", "search.epochs=4", "adapt.epochs=4", "evaluate.every=4"),
}
SHORT = (
    "space.input_scales=[1]",
    "space.head_channels=[1]",
    "search.alpha_start=2",
    "search.candidates=30",
    "engine.threads=1",
    "engine.workers=0",
)
TABLES = {"from_super": 12, "remapping": 13, "net2net": 14, "strategies": 15, "random_search": 16}
REFERENCES = {
    "from_super": "seed",
    "remapping": "row1",
    "net2net": "row2",
    "strategies": "fna",
    "random_search": "row2",
}
SAME = {  # row -> that of another study, with the same training
    "remapping": {"row1": ("from_super", "super"), "row2": ("from_super", "seed")},
    "strategies": {"fnapp": ("from_super", "super"), "fna": ("from_super", "seed")},
}


def do(dataset: str, data: str, runs: Path, rng_seeds: int, names: Sequence[str]) -> None:
    """Do studies on a data set, or go on with them, and write each as it gets on."""
    recipe = Path(__file__).parents[1] / "recipes" / f"{RECIPES[dataset]}.yaml"
    config = configure(recipe, data, [*SETTINGS[dataset], *SHORT])
    for seeds in range(1, rng_seeds + 1):
        for name in names:
            study, folder = read_study(name), runs / dataset / name
            take_same(name, runs / dataset, seeds)
            run_study(study, plan_study(study, config, folder, seeds), folder)
            print(write(name, runs))


def take_same(name: str, runs: Path, rng_seeds: int) -> None:
    """Copy the run folders of rows that another study has done with the same settings."""
    for row, (other, its) in SAME.get(name, {}).items():
        for k in range(rng_seeds):
            source, folder = runs / other / f"seed_{k}" / its, runs / name / f"seed_{k}" / row
            if not folder.exists() and (source / "metrics.json").exists():
                shutil.copytree(source, folder)


def rows_of(done: Mapping[str, Any], dataset: str) -> list[dict[str, Any]]:
    """Return the rows of a study.json on a data set, as results have them."""
    return [
        {
            "row": row["title"],
            "data": dataset,
            "metric": done["metric"],
            "article": row["article"],
            **{key: value for key, value in entry.items() if key != "folder"},
        }
        for row in done["rows"]
        for entry in row["entries"]
    ]


def write(name: str, runs: Path) -> Path:
    """Write what there is of a study on either data set."""
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    ratios: dict[str, float] = {}
    rng_seeds: dict[str, list[int]] = {}
    for dataset in RECIPES:
        path = runs / dataset / name / RESULTS[0]
        if not path.exists():
            missing.append(dataset)
            continue
        done = read_json(path)
        missing += [f"{dataset}/{row}" for row in done["missing"]]
        rng_seeds[dataset] = done["rng_seeds"]
        scores = {row["name"]: {e["rng_seed"]: e["score"] for e in row["entries"]} for row in done["rows"]}
        reference = REFERENCES[name]
        for row, own in scores.items():
            differences = [own[k] - score for k, score in scores[reference].items() if k in own and row != reference]
            if differences:
                ratios[f"{dataset}_{row}_minus_{reference}"] = statistics.mean(differences)
        rows += rows_of(done, dataset)
    settings = {dataset: [*settings, *SHORT] for dataset, settings in SETTINGS.items()}
    more = {"rng_seeds": rng_seeds, "missing": missing, "settings": settings}
    return record.write(f"study_table{TABLES[name]}", rows, ratios, **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=RECIPES)
    parser.add_argument("data")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--rng-seeds", type=int, default=1)
    parser.add_argument("--only", action="append", metavar="STUDY")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    with told(parser):
        names = [name for name in given.only or TABLES if pick(known_studies(), name, "study")]
        if given.write:
            print(*(write(name, given.runs) for name in names), sep="\n")
        else:
            do(given.dataset, given.data, given.runs, given.rng_seeds, names)


if __name__ == "__main__":
    main()
