"""`fna plan`: costs that are those of the networks themselves, budgets that hold, minutes and memory by hand."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from fna import cli
from fna.arch.spaces import task_space
from fna.arch.target import Form
from fna.config import MODELS, Config, load_config, make_config, parse_budget
from fna.cost.madds import path_cost
from fna.data.index import open_splits
from fna.data.splits import open_data
from fna.runs.planning import Basis, SeedPlan, _adapt_seconds, _search_seconds, find_basis, plan, space_of, synthetic
from fna.seeds import load_seed
from fna.training.compute import Compute
from fna.training.distributed import World
from fna.training.memory import MARGIN, training_memory
from fna.training.pace import Pace

CPU = Compute(torch.device("cpu"), None, False, World())
RECIPES = Path(__file__).parents[1] / "recipes"
RECIPE = """
seed: {name: mobilenet_v2_035}
task: {channels: 16}
data: {format: folder, classes: [a, b, c], crop: [64, 96]}
search: {budget: 0.8x, batch_size: 2, epochs: 3}
adapt: {batch_size: 2, epochs: 4}
evaluate: {every: 2}
engine: {device: cpu, precision: fp32, threads: 1, workers: 0}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def basis_of(recipe: Path, *overrides: str, images: int | None = None) -> Basis:
    return find_basis(load_config(recipe, overrides), images)


@pytest.fixture(scope="module")
def planned(recipe: Path) -> dict[str, SeedPlan]:
    rows, _ = plan(basis_of(recipe), CPU, timed=False)
    return {row.name: row for row in rows}


# --- costs ------------------------------------------------------------------------------------------------------------


def test_the_recipes_seed_and_those_that_are_here_are_planned_the_cheapest_first(planned: dict[str, SeedPlan]) -> None:
    assert {"mobilenet_v2_035", "efficientnet_lite0"} <= set(planned)
    madds = [row.madds for row in planned.values()]
    assert madds == sorted(madds)
    assert [row.name for row in planned.values() if row.recipe] == ["mobilenet_v2_035"]
    assert planned["efficientnet_lite0"].here is True


@pytest.mark.parametrize("name", ["mobilenet_v2_035", "efficientnet_lite0"])
def test_costs_are_those_of_the_networks_themselves(recipe: Path, planned: dict[str, SeedPlan], name: str) -> None:
    row, problem, arch = planned[name], basis_of(recipe).problem, load_seed(name, None).arch
    assert (row.params, row.madds) == (problem.cost(arch).params, problem.cost(arch).madds)
    space = task_space(
        arch, problem.task.layers, problem.prepared(arch).taps, kernels=(3, 5, 7), expansions=(3, 6),
        cells=problem.config.space.cells, layers=None, skip=None,
    )  # fmt: skip
    assert row.space == space.size
    for form, pick, told in ((Form(0.5, 0.75), min, row.min_madds), (Form(1.0, 1.5), max, row.max_madds)):
        own = problem.at(form)
        path = [costs.index(pick(costs)) for costs in own.costs(space).table]
        assert own.cost(space.path_arch(path)).madds == told
    costs = problem.costs(space)
    assert row.limit == costs.limit(parse_budget("0.8x"), "search.budget") == int(0.8 * row.madds)
    assert path_cost(costs.table, space.seed_path()) + costs.other == row.madds


def test_a_budget_that_cannot_be_met_is_said_with_the_range_that_can(recipe: Path) -> None:
    rows, _ = plan(basis_of(recipe, "search.budget=1 MMAdds"), CPU, timed=False)
    assert all(row.limit is None and "choose a budget in that range" in row.why_not for row in rows)
    assert not any(row.shrink for row in rows)


def test_a_larger_seed_is_shrunk_into_the_budget_of_the_recipes(recipe: Path, planned: dict[str, SeedPlan]) -> None:
    settings = ["seed.name=efficientnet_lite1", "search.budget=1.0"]
    rows, _ = plan(basis_of(recipe, *settings), CPU, timed=False)
    by_name = {row.name: row for row in rows}
    assert not by_name["efficientnet_lite0"].shrink, "smaller"
    assert not by_name["efficientnet_lite1"].shrink, "itself"
    row = by_name["efficientnet_lite2"]
    _, overrides = cli.split_settings(row.shrink)
    shrunk = basis_of(recipe, *overrides)
    arch = load_seed(shrunk.problem.config.seed.name, None).arch
    costs = shrunk.problem.costs(space_of(shrunk.problem, arch))
    limit = costs.limit(parse_budget(shrunk.problem.config.search.budget or 0), "search.budget")
    assert limit == pytest.approx(by_name["efficientnet_lite1"].madds, rel=1e-5)
    assert limit < costs.seed


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_memory_is_weights_moments_and_the_maps_that_a_real_pass_keeps(model: str) -> None:
    config = make_config({"task": {"model": model}, "data": {"format": "synthetic", "crop": [64, 96]}})
    problem, arch = find_basis(config, 10).problem, load_seed("mobilenet_v2_035", None).arch
    network = problem.build(arch).train()
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        network(torch.zeros(2, 3, 64, 96))
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    maps = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)
    weights = 4 * problem.cost(arch).params
    for name, copies in (("adamw", 4), ("sgd", 3)):
        optimizer = config.adapt.optimizer.model_copy(update={"name": name})
        estimate = training_memory(problem, arch, 2, optimizer, CPU)
        assert estimate == pytest.approx(copies * weights + MARGIN * maps, rel=0.02)
    half = training_memory(problem, arch, 2, optimizer, replace(CPU, dtype=torch.bfloat16))
    assert half == pytest.approx(3 * weights + MARGIN * maps / 2, rel=0.02)


# --- minutes ----------------------------------------------------------------------------------------------------------


def seconds(config: Config, train: int, val: int, spent: float = 1.0) -> tuple[float, float]:
    """Search and adaptation, where a step takes 3 s and running a batch 1 s."""
    basis = replace(find_basis(config, train), val=val)
    space = space_of(basis.problem, load_seed("mobilenet_v2_035", None).arch)
    pace = Pace(3.0, 1.0)
    return _search_seconds(basis, pace, space, spent), _adapt_seconds(basis, pace, spent)


def test_minutes_of_adaptation_by_hand(recipe: Path) -> None:
    config = load_config(recipe, ["adapt.recalibrate=5"])
    # 4 epochs of 10 steps; 5 batches of recalibration; 2 scorings of 6 images, at their crop, in batches of 2.
    assert seconds(config, 21, 6)[1] == pytest.approx(40 * 3 + 5 + 2 * 3)
    assert seconds(config, 21, 6, 0.5)[1] == pytest.approx((40 * 3 + 5 + 2 * 3) / 2)


def test_minutes_of_a_measured_search_by_hand(recipe: Path) -> None:
    settings = ("space.input_scales=[1, 2]", "search.anchor=0.25", "search.window=[0.5, 1.0]", "search.candidates=10")
    scoring = ("search.held_out=0.2", "search.recalibrate=3")
    config = load_config(recipe, [*settings, *scoring])
    layers = len(space_of(find_basis(config, 1).problem, load_seed("mobilenet_v2_035", None).arch).searchable)
    # 3 epochs of 8 steps on 16 of 20 images, a quarter on the seed, half of these at twice the size, the others at
    # 0.75 x the budget of 0.8 x; then 10 candidates and two changes of each layer, 3 + 2 batches each, and 6 finalists,
    # trained for 2 steps, on 4 whole images, in batches of 2.
    weights = 24 * 3 * (0.25 * (1 + 4) / 2 + 0.75 * 0.75 * 0.8)
    finals = 6 * (2 + 2 * 3 * 0.8)
    assert seconds(config, 20, 0, 0.8)[0] == pytest.approx(weights + (10 + 2 * layers) * 5 + finals, rel=1e-3)
    two = load_config(recipe, [*settings, *scoring, "search.smaller_budgets=[0.5x]"])
    both = (2 * 10 + 2 * layers) * 5 + 2 * finals
    assert seconds(two, 20, 0, 0.8)[0] == pytest.approx(weights + both, rel=1e-3), "each budget has its own"


def test_alphas_take_their_own_steps(recipe: Path) -> None:
    more = ["search.chooser=alphas", "search.sampler=uniform"]
    late, early = (seconds(load_config(recipe, [*more, f"search.alpha_start={n}"]), 24, 0)[0] for n in (2, 0))
    # 3 epochs of 6 steps on the 12 images that are the weights', 4/3 of a step for each step of the alphas.
    assert early / late == pytest.approx((18 + 18 * 4 / 3) / (18 + 6 * 4 / 3))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_timed_on_synthetic_scenes(path: Path) -> None:
    config = synthetic(load_config(path))
    data = open_splits(config.task.name, config.data, ["train"])["train"]
    assert len(data) >= config.adapt.batch_size
    assert config.data.crop == load_config(path).data.crop


def test_steps_are_timed_on_synthetic_scenes(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fna.runs.planning.is_here", lambda weights: False)  # the recipe's seed alone
    rows, remarks = plan(basis_of(recipe, images=50), CPU)
    (row,) = rows
    assert row.search_minutes
    assert row.adapt_minutes
    assert row.baseline_minutes
    assert row.adapt_minutes == pytest.approx(0.8 * row.baseline_minutes, rel=1e-6)
    assert remarks == ["counted without the data: for 3 classes, at 64 x 96 pixels"]


# --- the command ------------------------------------------------------------------------------------------------------


def answer(recipe: Path, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli.main(["plan", str(recipe), "--no-time", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_and_the_command_to_type(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(recipe, capsys, "--seed.name", "efficientnet_lite0", "--adapt.epochs", "7")
    assert told["size_hw"] == [64, 96]
    assert told["images"] is None
    assert any("give --data.root PATH or --images N" in remark for remark in told["remarks"])
    by_name = {row["name"]: row for row in told["seeds"]}
    words = shlex.split(by_name["efficientnet_lite2"]["command"])
    assert words[:5] == ["fna", "run", str(recipe), "--run", "runs/efficientnet_lite2"]
    config = load_config(recipe, cli.split_settings(words)[1])
    assert (config.seed.name, config.adapt.epochs) == ("efficientnet_lite2", 7)
    assert by_name["efficientnet_lite0"]["command"] is None


def test_the_table_has_it_all(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(recipe), "--no-time", "--all", "--images", "9", "--space.input_scales", "[1.0]"]) == 0
    out, err = capsys.readouterr()
    assert "mobilenet_v2_035 (the recipe)" in out
    assert "resnet50" in out
    assert " here " in out
    assert "searched within the budget of the recipe's:\n  fna run " in out
    assert "memory is that of a training step" in err


def test_data_that_are_there_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "synthetic.yaml"
    path.write_text("seed: {name: mobilenet_v2_035}\ndata: {format: synthetic, images: 12, crop: [64, 64]}\n")
    told = answer(path, capsys, "--search.chooser", "alphas")
    assert told["images"] == len(open_data(load_config(path)).train) > 0
    assert told["remarks"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.yaml"], "nothing.yaml"),
        (["{recipe}", "--images", "0"], "--images"),
        (["{recipe}", "--seed.name", "efficientnet_lit0"], "did you mean 'efficientnet_lite0'"),
        (["{recipe}", "--search.sampler", "uniforn"], "did you mean 'uniform'"),
        (["{recipe}", "--search.budget", "12"], "has no unit"),
    ],
)
def test_mistakes_are_one_message(
    recipe: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *(word.format(recipe=recipe) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
