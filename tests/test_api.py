"""The public names: light to import, always the same thing, and from Python the same networks as from a run folder."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import SIDE, Job, opened, tiny_config, tiny_seed, write_images

import fna
from fna.arch.target import Target
from fna.config import Config
from fna.cost.madds import Cost
from fna.data.listing import Legend, Listing
from fna.data.segmentation.pixels import SegmentationData
from fna.errors import FnaError
from fna.files import read_json, read_state

SMALL = (
    *("space.layers=[2, 2, 3, 4, 3, 1]", "space.expansions=[6]", "search.budget=0.9", "search.epochs=3"),
    *("adapt.epochs=1", "adapt.batch_size=2", "engine.checkpoint_steps=0"),
)


def python(code: str) -> None:
    """Run code in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "blocks")


@pytest.fixture(scope="module")
def job(images: Path) -> Iterator[Job]:
    """A job on a seed of our own."""
    with opened(tiny_config(images)) as ready:
        yield ready


# --- names ------------------------------------------------------------------------------------------------------------


def test_importing_waits_for_nothing() -> None:
    python(
        "import sys, fna; fna.FnaError, fna.Arch, dir(fna), fna.__version__\n"
        "slow = {'torch', 'numpy', 'pydantic', 'timm'} & sys.modules.keys(); assert not slow, slow"
    )


def test_every_public_name_is_there() -> None:
    assert sorted([*fna.__all__, "__version__"]) == dir(fna)
    assert all(getattr(fna, name) is not None for name in dir(fna))
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        fna.serach  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(fna.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname
    }
    assert seen == {name: f"fna.{module}" for name, module in fna.HOMES.items()}


def test_no_public_name_is_a_module() -> None:
    """Python binds a submodule to its package when it is imported: it would take the place of a function."""
    modules = {module.name for module in pkgutil.iter_modules(fna.__path__)}
    assert not modules & set(fna.__all__)
    assert len(modules) < 22


# --- the job ----------------------------------------------------------------------------------------------------------


def test_python_and_a_run_folder_give_the_same_networks(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, *SMALL, "baseline=true")
    seed, data = fna.load_seed(config.seed.name, config.seed.weights), fna.open_data(config)
    problem = fna.Problem.of(config, data.val, seed)
    with fna.computing(config.engine) as compute:
        found = fna.search(fna.expand(seed, problem), problem, data.train, compute)
        networks = {"adapted": fna.derive(found, problem), "baseline": fna.seed_network(seed, problem)}
        tuned = {name: fna.adapt(network, problem, data, compute) for name, network in networks.items()}
    costs = {name: fna.count(network, problem) for name, network in networks.items()}
    rows = fna.run(tmp_path / "run", config)["rows"]
    assert Target.from_json(read_json(tmp_path / "run" / "targets" / "derived.json")).arch == networks["adapted"].arch
    for name, result in tuned.items():
        saved = read_state(tmp_path / "run" / name / "network.safetensors")
        assert saved.keys() == result.network.state.keys()
        assert all(torch.equal(saved[key], tensor) for key, tensor in result.network.state.items())
        assert rows[name]["miou"] == result.scores["miou"]
        assert Cost(rows[name]["params"], rows[name]["madds"]) == costs[name]
    assert costs["adapted"].madds <= 0.9 * costs["baseline"].madds


def test_one_search_answers_any_number_of_budgets(job: Job) -> None:
    found = fna.search(fna.expand(job.seed, job.problem), job.problem, job.data.train, job.compute)
    seed = job.problem.cost(job.seed.arch)
    for budget, cost, limit in (("0.9x", "madds", 0.9 * seed.madds), (0.8, "madds", 0.8 * seed.madds)):
        derived = fna.derive(found, job.problem, budget)
        assert 0.6 * limit < getattr(fna.count(derived, job.problem), cost) <= limit
    small = fna.derive(found, job.problem, f"{0.95 * seed.params:.0f} params")
    assert small.costs is not None
    assert small.costs.unit == "params"
    assert fna.count(small, job.problem).params <= 0.95 * seed.params
    with pytest.raises(FnaError, match=r"0\.01x means .*MAdds, but this space reaches from .* x the seed"):
        fna.derive(found, job.problem, "0.01x")


def test_evaluate_gives_the_scores_of_the_adaptation(job: Job) -> None:
    tuned = fna.adapt(fna.seed_network(job.seed, job.problem), job.problem, job.data, job.compute)
    model = fna.build(tuned.network, job.problem)
    assert not model.training
    assert tuple(model(torch.zeros(1, 3, SIDE, SIDE)).shape) == (1, 3, SIDE, SIDE)
    assert fna.evaluate(model, job.problem, job.data.val, job.compute) == tuned.scores
    some = fna.evaluate(model, job.problem, job.data.train, job.compute, [0, 3, 5])
    assert some != fna.evaluate(model, job.problem, job.data.train, job.compute, [1, 2, 4])


def test_any_architecture_can_take_the_super_networks_weights(job: Job) -> None:
    found = fna.search(fna.expand(job.seed, job.problem), job.problem, job.data.train, job.compute)
    control = fna.remap_network(found.network, job.seed.arch, job.problem)
    assert control.state.keys() == job.problem.build(job.seed.arch).state_dict().keys()
    changes = {"epochs": 1, "name": "control"}
    config = job.config.adapt.model_copy(update=changes)
    tuned = fna.adapt(control, job.problem, job.data, job.compute, config)
    assert 0 <= tuned.scores["miou"] <= 1


def test_a_network_without_a_head_cannot_be_built(job: Job) -> None:
    with pytest.raises(FnaError, match=r"lacks \d+ tensors, the first 'head\."):
        fna.build(fna.seed_network(job.seed, job.problem), job.problem)


def memory(n: int) -> SegmentationData:
    """Data that is in no file: left half dark, right half bright."""

    def read(position: int) -> Any:
        mask_HW = np.zeros((SIDE, SIDE), np.uint8)
        mask_HW[:, SIDE // 2 :] = 1
        noise_HW3 = np.random.default_rng(position).integers(0, 60, (SIDE, SIDE, 3))
        return (noise_HW3 + 150 * mask_HW[..., None]).astype(np.uint8), mask_HW

    names = tuple(f"{i}.png" for i in range(n))
    return SegmentationData(
        Listing(names, Legend(("dark", "bright"), ((0, 0, 0), (255, 255, 255)), {0: 0, 1: 1}), read), "mine"
    )


def test_data_of_your_own() -> None:
    config: Config = tiny_config(Path("nowhere"))
    data, seed = fna.Splits(memory(8), memory(2)), tiny_seed()
    problem = fna.Problem.of(config, data.val, seed)
    with fna.computing(config.engine) as compute:
        tuned = fna.adapt(fna.seed_network(seed, problem), problem, data, compute)
    assert set(tuned.scores["iou"]) == {"dark", "bright"}
    assert tuned.scores["miou"] > 0.3
