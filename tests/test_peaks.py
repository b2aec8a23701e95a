"""Peak activation memory: what a real forward pass keeps alive, to the byte, and budgets that hold it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import opened, search_tiny, tiny_config, write_images
from torch.distributed._tools.mem_tracker import MemTracker

from fna.arch import Arch
from fna.arch.target import Target
from fna.config import MODELS, load_config, make_config
from fna.cost.costs import Costs
from fna.errors import FnaError
from fna.runs.planning import space_of
from fna.searching.alphas import check_settings
from fna.searching.choosing import CHOOSERS
from fna.searching.found import Alphas, Found, Pool
from fna.searching.knapsack import PathsBetween, best_path
from fna.searching.sampling import tilted
from fna.seeds import IMAGENET_MEAN, IMAGENET_STD, load_seed
from fna.stages.derive import derive
from fna.stages.expand import expand
from fna.tasks import load_task
from fna.tasks.labels import Labels
from fna.tasks.problem import Problem

SMALL = "mobilenet_v2_035"
CASES = [*((model, SMALL) for model in MODELS), *(("deeplabv3", s) for s in ("efficientnet_lite0", "resnet18"))]
CASES.append(("retinanet", "resnet50"))
MEASURED = ("search.chooser=measured", "search.sampler=anchored", "search.candidates=6", "search.recalibrate=1")
SHORT = ("search.epochs=1", "search.budget=0.7x memory", "space.expansions=[1, 3]", "space.head_channels=[1]")


def problem_of(model: str) -> Problem:
    narrow = {} if model == "ssdlite" else {"channels": 16}
    config = make_config({"task": {"model": model, **narrow}, "data": {"crop": [64, 96]}})
    labels = Labels(("a", "b", "c"), ((0, 0, 0),) * 3)
    return Problem(config, load_task(config.task.name), labels, (64, 96), IMAGENET_MEAN, IMAGENET_STD)


@torch.no_grad()
def kept_alive(problem: Problem, arch: Arch) -> int:
    """What torch's own tracker sees alive at most while the real network runs, weights aside."""
    model, image = problem.build(arch).eval(), torch.zeros(1, 3, *problem.counted_hw(arch))
    model(image)  # anchors are made once
    tracker = MemTracker()
    tracker.track_external(model, image)
    with tracker:
        model(image)
    (alive,) = tracker.get_tracker_snapshot("peak").values()
    return int(alive["Total"]) - sum(weight.nbytes for weight in model.state_dict().values())


@pytest.mark.parametrize(("model", "seed"), CASES)
def test_the_table_of_a_path_is_what_its_network_keeps_alive(model: str, seed: str) -> None:
    problem, arch = problem_of(model), load_seed(seed, weights=None).arch
    space, draw = space_of(problem, arch), random.Random(0)
    costs = problem.costs(space, "memory")
    assert costs.seed == costs.whole(space.seed_path()) == kept_alive(problem, arch)
    path = tuple(draw.randrange(len(candidates)) for _, candidates in space.layers())
    network = space.path_arch(path)
    assert costs.whole(path) == problem.whole(network, "memory") == kept_alive(problem, network)


def test_a_form_has_the_peak_of_its_network() -> None:
    problem, arch = problem_of("deeplabv3"), load_seed(SMALL, weights=None).arch
    for form in (Target(arch, 0.5, 1.25), Target(arch, output_stride=8)):
        own = problem.at(form)
        assert own.whole(arch, "memory") == kept_alive(own, arch)
    assert problem.at(Target(arch, scale=0.5)).whole(arch, "memory") < problem.whole(arch, "memory")


# --- a maximum as a budget --------------------------------------------------------------------------------------------

TABLES = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4), min_size=1, max_size=5)


@given(TABLES, st.integers(0, 30), st.integers(0, 40), st.randoms(use_true_random=False))
def test_excesses_add_up_to_the_same_limit(table: list[list[int]], other: int, limit: int, draw: random.Random) -> None:
    costs = Costs("B", table, other, 1, max)
    path = tuple(draw.randrange(len(row)) for row in table)
    assert costs.whole(path) == max(other, *(row[j] for row, j in zip(table, path, strict=True)))
    assert (costs.charged(path, limit) <= limit) == (costs.whole(path) <= limit)
    assert costs.range[0] <= costs.whole(path) <= costs.range[1]
    added, room = costs.added(limit)
    if limit < costs.range[0]:
        with pytest.raises(FnaError, match="no architecture") if other > limit else pytest.raises(FnaError):
            best_path(added, [[0.0] * len(row) for row in table], room)
        return
    worth = [[draw.random() for _ in row] for row in table]
    best = best_path(added, worth, room)
    allowed = [[j for j, cost in enumerate(row) if cost <= limit] for row in table]
    assert best == tuple(max(js, key=lambda j: row[j]) for js, row in zip(allowed, worth, strict=True))
    drawn = PathsBetween(added, room, room).draw(draw.random)
    assert drawn is not None
    assert costs.whole(drawn) <= limit


def test_paths_are_drawn_among_the_blocks_that_a_limit_allows() -> None:
    costs = Costs("B", [[10, 40, 90], [50, 20, 30]], 5, 90, max)
    even = [np.full(3, 1 / 3), np.full(3, 1 / 3)]
    first, second = tilted(even, costs, 45)
    assert first == pytest.approx([0.5, 0.5, 0])
    assert second == pytest.approx([0, 0.5, 0.5])
    assert tilted(even, costs, 15)[1] == pytest.approx([0, 1, 0])  # none is allowed: the cheapest


# --- searches ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "blocks")


@pytest.mark.parametrize("chooser", ["measured", "halving"])
def test_a_search_finds_a_network_within_a_budget_of_memory(images: Path, tmp_path: Path, chooser: str) -> None:
    config = tiny_config(images, *MEASURED, *SHORT, f"search.chooser={chooser}", "space.input_scales=[0.75, 1]")
    with opened(config) as job:
        found = search_tiny(job, tmp_path / "run")
        limit = int(0.7 * job.problem.whole(job.seed.arch, "memory"))
        target = derive(found, job.problem)
        whole = job.problem.at(target).whole(target.arch, "memory")
        madds = derive(found, job.problem, "1x")
    assert (found.unit, found.budget) == ("B", {"text": "0.7x memory", "cost": limit})
    assert isinstance(found.evidence, Pool)
    assert target.choice is not None
    assert whole == target.choice.cost <= limit
    assert madds.costs is not None
    assert madds.costs.unit == "MAdds"


def test_every_chooser_keeps_to_a_budget_of_memory(images: Path) -> None:
    with opened(tiny_config(images, "space.expansions=[1, 3]")) as job:
        network = expand(job.seed, job.problem)
        costs = job.problem.costs(network.arch, "memory")
        found = Found(network, Alphas([[float(j) for j in range(len(row))] for row in costs.table]))
        limit = int(0.7 * costs.seed)
        for name in ("alphas", "random", "cut", "narrowed"):
            choice = CHOOSERS[name](found, costs, limit, 0)
            assert job.problem.whole(choice.target.arch, "memory") == choice.cost <= limit, name
        likeliest = CHOOSERS["alphas"](found, costs, limit, 0).path
    allowed = [[j for j, cost in enumerate(row) if cost <= limit] for row in costs.table]
    assert likeliest == tuple(map(max, allowed))


def test_alphas_do_not_learn_under_a_peak(images: Path) -> None:
    config = tiny_config(images, "search.budget=0.6x memory")
    with opened(config) as job, pytest.raises(FnaError, match=r"type --search\.chooser measured"):
        search_tiny(job, images / "never")
    assert not list((images / "never").iterdir())
    check_settings(load_config(None, ["search.chooser=alphas", "derive.budget=40 MB"]).search)
    check_settings(load_config(None, ["search.budget=40 MiB"]).search)
