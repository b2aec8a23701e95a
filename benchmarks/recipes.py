"""What an iteration of each recipe takes on this device, memory included, and the hours of its whole schedule.

    python benchmarks/recipes.py [--only RECIPE ...] [--device cuda] [--minutes 10] [--tiny]

Every recipe has its own sizes, batch and optimizer, fresh weights, and batches of synthetic scenes that lie on the
device: data sets are not needed, and loading is not in it. Steps are those of one process. Hours are those of its
training images by the batch of a process, so GPU-hours however many share them: a weight step for each batch of the
search, an alpha step where the recipe has one, and a step for each batch of the adaptation; scored candidates and
validation are not in them. `over_article_*` are the hours of search and adaptation / those of the article (Tables III
and V; its cards are older).

``results/recipes.json`` is written after every recipe, and keeps what is in it of the same device; after --minutes no
other begins. --tiny, on any device, only shows that it works: it writes ``results/recipes_tiny.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import record
import torch
from gpu import stepper

from fna.config import Config, load_config, make_config
from fna.config.budgets import parse_budget
from fna.data.splits import open_data
from fna.errors import FnaError
from fna.runs.planning import synthetic
from fna.searching.alphas import SearchLoop
from fna.seeds import Seed, load_seed
from fna.stages.adapt import AdaptLoop
from fna.stages.expand import expand, seed_network
from fna.tasks.problem import Problem
from fna.training.compute import Compute, computing, find_device

RECIPES = Path(__file__).parents[1] / "recipes"
IMAGES = {"camvid": 367, "bccd": 205, "lspet": 1675, "cityscapes": 2975, "coco": 118_287, "mpii": 22_246}  # to train on
ARTICLE = {"cityscapes_deeplabv3": 35.8, "coco_retinanet": 8.5 * 24, "coco_ssdlite": 21 * 24}  # GPU-hours
STEPS, ROUNDS = 12, 2  # so many steps, among which are all input scales, are taken once before they are timed
TINY = ["data.crop=[64, 64]", "search.batch_size=2", "adapt.batch_size=2", "search.cost_size=null"]


def configure(recipe: str, device: str, tiny: bool) -> Config:
    """Return a recipe with synthetic scenes in place of its data, enough for a few batches."""
    own = [f"engine.device={device}", "engine.workers=0", "adapt.recalibrate=0", "seed.weights=null"]
    given = load_config(RECIPES / f"{recipe}.yaml", [*own, *(TINY if tiny else [])])
    settings = synthetic(given).model_dump(mode="json", by_alias=True)
    settings["data"]["images"] = 4 * max(given.adapt.batch_size, given.search.batch_size) + 8
    return make_config(settings)


def seconds(step: Callable[[int], object], steps: int, device: torch.device) -> dict[str, float]:
    """Return the seconds of one of several steps, on average, and on a GPU the bytes that they need at most."""
    cuda = device.type == "cuda"
    for i in range(steps):
        step(i)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for i in range(ROUNDS * steps):
        step(i % steps)
    if cuda:
        torch.cuda.synchronize()
    took = {"seconds": (time.perf_counter() - began) / (ROUNDS * steps)}
    return took | ({"bytes": torch.cuda.max_memory_allocated()} if cuda else {})


def measure(config: Config, steps: int) -> dict[str, dict[str, float]]:
    """Time each kind of step of a recipe, with nothing else on the device."""
    seed, data, found = load_seed(config.seed.name, None), open_data(config), {}
    problem = replace(Problem.of(config, data.val, seed), size_hw=config.data.crop)
    with computing(config.engine) as compute:
        loop = searching(seed, problem, data.train, compute)
        steps = min(steps, loop.alpha_start)
        hold(loop, steps)
        found["weight step"] = seconds(stepper(loop), steps, compute.device)
        if loop.learns_alphas:
            found["alpha step"] = seconds(loop.alpha_step, steps, compute.device)
        del loop
        tuned = AdaptLoop(seed_network(seed, problem), problem, data, compute, config.adapt)
        tuned.start(0)
        tuned.batches = repeat(next(tuned.batches))
        found["adaptation step"] = seconds(stepper(tuned), steps, compute.device)
    return found


def searching(seed: Seed, problem: Problem, train: Any, compute: Compute) -> SearchLoop:
    """Begin a search."""
    grown, budget = expand(seed, problem), problem.config.search.budget
    costs = problem.costs(grown.arch)
    limit = costs.limit(parse_budget(budget), "search.budget") if budget else None
    loop = SearchLoop(grown, problem, train, compute, costs, limit)
    loop.start(0)
    return loop


def hold(loop: SearchLoop, steps: int) -> None:
    """Let a search take its first steps again and again, on batches that are there, one of each input scale."""
    scales = [loop.drawn_for(step)[0].scale for step in range(steps)]
    there: dict[float, Any] = {}
    for scale in scales:
        item = next(loop.weight_batches)
        there.setdefault(scale, item)
    loop.weight_batches = cycle(there[scale] for scale in scales)
    if loop.learns_alphas:
        loop.alpha_batches = repeat(next(loop.alpha_batches))


def hours(recipe: str, config: Config, took: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the hours of a recipe's search and adaptation on its whole data."""
    images, search, adapt = IMAGES[recipe.partition("_")[0]], config.search, config.adapt
    alphas = "alpha step" in took
    batches = images * (1 - (search.alpha_split if alphas else search.held_out)) / search.batch_size
    searched = search.epochs * batches * took["weight step"]["seconds"]
    if alphas:
        searched += (search.epochs - search.alpha_start) * batches / search.cycle * took["alpha step"]["seconds"]
    adapted = adapt.epochs * images / adapt.batch_size * took["adaptation step"]["seconds"]
    return {"search": searched / 3600, "adaptation": adapted / 3600}


def main() -> None:
    """Measure recipes and write the results after each."""
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="RECIPE")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    began, device = time.monotonic(), find_device(given.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else record.machine()
    file = record.RESULTS / f"recipes{'_tiny' * given.tiny}.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    rows, ratios = (before["rows"], before["ratios"]) if before.get("device") == card else ([], {})
    for recipe in given.only:
        if time.monotonic() - began > 60 * given.minutes:
            print(f"{recipe}: left out, --minutes {given.minutes:g} are over", flush=True)
            continue
        config = configure(recipe, given.device, given.tiny)
        try:
            took = measure(config, 2 if given.tiny else STEPS)
        except (FnaError, torch.OutOfMemoryError) as error:
            print(f"{recipe}: left out: {error}", flush=True)
            continue
        whole = hours(recipe, config, took)
        new = [(f"{recipe}: {step}", what, value) for step, values in took.items() for what, value in values.items()]
        new += [(f"{recipe}: {stage}", "hours", value) for stage, value in whole.items()]
        rows = [row for row in rows if not row["row"].startswith(f"{recipe}:")]
        rows += [{"row": row, "metric": metric, "score": value} for row, metric, value in new]
        for row, metric, value in new:
            print(f"{row}: {value:.4g} {metric}", flush=True)
        if recipe in ARTICLE:
            ratios[f"over_article_{recipe}"] = sum(whole.values()) / ARTICLE[recipe]
        record.write(file.stem, rows, ratios, device=card)


if __name__ == "__main__":
    main()
