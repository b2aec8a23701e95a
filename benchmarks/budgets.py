"""What one super network is worth at smaller budgets, beside the seed pruned and cut to them.

    python benchmarks/budgets.py DATA RUN [--budgets A,B,...] [--job-array K/N] [--write] [key=value ...]

Does the recipe camvid_deeplabv3 in RUN, or goes on with a run that is there, then the front of its super network at the
budgets (0.64x,0.5x,0.35x), one of which may be the recipe's own (search.budget=0.64x), with every control: the
fine-tuned seed, the seed cut by hand, the seed with narrower expansions, and the fine-tuned seed pruned by
Torch-Pruning, by either of its importances, and trained until it has had the compute of the network of that budget,
search included; half of it for the seed's fine-tuning at most. Writes ``results/gain_camvid_budgets.json``, as far as
there is something; `missing` says what is not. --job-array does a part of it beside other processes; --write does
nothing but the file. DATA is CamVid's folder.

Ratios are differences of mIoU as shares, by budget: found_minus_seed, found_minus_pruned (the better of the pruned ones
on val, which favours them), found_minus_cut (the better of those cut by hand and narrowed within the budget), and
madds_over_seed. A network stands for a budget if it costs no more.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import record
from gain import configure, told

from fna.config.budgets import parse_budget
from fna.files import read_json
from fna.runs import pipeline
from fna.runs.front import CONTROLS, PRUNINGS, make_front
from fna.runs.points import FILE, FRONT

NAME, BUDGETS = "gain_camvid_budgets", "0.64x,0.5x,0.35x"
RECIPE = Path(__file__).parents[1] / "recipes" / "camvid_deeplabv3.yaml"
RIVALS = {"pruned": tuple(PRUNINGS), "cut": CONTROLS}


def train(data: str, folder: Path, budgets: Sequence[str], array: str | None, settings: Sequence[str]) -> None:
    """Do the run, unless it has searched and adapted, and its front."""
    config = None
    if not (folder / "config.yaml").exists():
        own = parse_budget(configure(RECIPE, data, settings).search.budget or 1.0)
        smaller = ", ".join(budget for budget in budgets if parse_budget(budget) != own)
        config = configure(RECIPE, data, [f"search.smaller_budgets=[{smaller}]", *settings])
    if not (folder / "metrics.json").exists():
        pipeline.run(folder, config, settings if config is None else ())
    make_front(folder, budgets, settings, array, (*CONTROLS, *PRUNINGS))


def write(folder: Path) -> Path:
    """Write the result from a front."""
    front, config = read_json(folder / FRONT / FILE), read_json(folder / "metrics.json")
    rng_seed = next(iter(config["rows"].values()))["rng_seed"]
    points = front["points"]
    rows = [
        {
            "row": f"{point['kind']} {point['budget'] or ''}".strip(),
            "rng_seed": rng_seed,
            "metric": config["metric"],
            "score": point["score"],
            "params": point["costs"]["params"],
            "madds": point["costs"]["MAdds"],
            **{key: point[key] for key in ("minutes", "head_width", "scale")},
        }
        for point in points
    ]
    more = {key: front[key] for key in ("left_out", "missing")}
    return record.write(NAME, rows, ratios(points, front["seed"]["MAdds"]), **more)


def ratios(points: Sequence[Mapping[str, Any]], seed_madds: int) -> dict[str, float]:
    """Return the differences at every budget that a network was found for.

    Args:
        points: of front.json.
        seed_madds: of the seed's whole network.
    """
    told = {}
    for point in points:
        if point["kind"] != "found" or not point["budget"]:
            continue
        name, budget = point["budget"], parse_budget(point["budget"])
        limit = budget.amount * (seed_madds if budget.relative else 1)
        if limit >= seed_madds:
            continue  # the recipe's own target: gain_camvid_deeplabv3.json is about it
        told[f"{name}_madds_over_seed"] = point["costs"]["MAdds"] / seed_madds
        for rival, kinds in {"seed": ("seed",), **RIVALS}.items():
            within = [p for p in points if p["kind"] in kinds and (rival == "seed" or p["costs"]["MAdds"] <= limit)]
            if within:
                told[f"{name}_found_minus_{rival}"] = point["score"] - max(p["score"] for p in within)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("run", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--budgets", default=BUDGETS)
    parser.add_argument("--job-array", metavar="K/N")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_intermixed_args()
    with told(parser):
        if not given.write:
            train(given.data, given.run, given.budgets.split(","), given.job_array, given.settings)
        print(write(given.run))


if __name__ == "__main__":
    main()
