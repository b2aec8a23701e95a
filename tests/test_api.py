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
from tiny import SIDE, tiny_config, tiny_seed, write_images

import fna
from fna.arch import Arch
from fna.config import Config
from fna.cost.madds import Cost
from fna.data.listing import Listing
from fna.data.segmentation.pixels import SegmentationData
from fna.errors import FnaError
from fna.files import read_json, read_state
from fna.runs import pipeline
from fna.training.setting import Setting

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
def setting(images: Path) -> Iterator[Setting]:
    """A setting on a seed of our own."""
    with fna.open_setting(tiny_config(images), seed=tiny_seed()) as opened:
        yield opened


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
    assert len(modules) < 20


# --- the job ----------------------------------------------------------------------------------------------------------


def test_python_and_a_run_folder_give_the_same_networks(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, *SMALL, "baseline=true")
    with fna.open_setting(config) as setting:
        grown = fna.expand(setting)
        found = fna.search(grown, setting)
        target = fna.derive(found, setting)
        seed = fna.seed_network(setting)
        tuned = {"adapted": fna.adapt(target, setting), "baseline": fna.adapt(seed, setting)}
        costs = {"adapted": fna.count(target, setting), "baseline": fna.count(seed, setting)}
    rows = pipeline.run(tmp_path / "run", config)["rows"]
    assert Arch.from_json(read_json(tmp_path / "run" / "target.json")["arch"]) == target.arch
    for name, result in tuned.items():
        saved = read_state(tmp_path / "run" / f"{name}.safetensors")
        assert saved.keys() == result.network.state.keys()
        assert all(torch.equal(saved[key], tensor) for key, tensor in result.network.state.items())
        assert rows[name]["miou"] == result.scores["miou"]
        assert Cost(rows[name]["params"], rows[name]["madds"]) == costs[name]
    assert costs["adapted"].madds <= 0.9 * costs["baseline"].madds


def test_evaluate_gives_the_scores_of_the_adaptation(setting: Setting) -> None:
    tuned = fna.adapt(fna.seed_network(setting), setting)
    assert fna.evaluate(tuned.network, setting) == tuned.scores
    model = fna.build(tuned.network, setting)
    assert not model.training
    assert tuple(model(torch.zeros(1, 3, SIDE, SIDE)).shape) == (1, 3, SIDE, SIDE)


def test_any_architecture_can_take_the_super_networks_weights(setting: Setting) -> None:
    found = fna.search(fna.expand(setting), setting)
    assert len(found.alphas) == sum(1 for _ in found.network.arch.layers())
    control = fna.remap_network(found.network, setting.seed.arch, setting)
    assert control.state.keys() == setting.build(setting.seed.arch).state_dict().keys()
    changes = {"epochs": 1, "name": "control"}
    tuned = fna.adapt(control, setting, setting.config.adapt.model_copy(update=changes))
    assert 0 <= tuned.scores["miou"] <= 1


def test_a_network_without_a_head_cannot_be_scored(setting: Setting) -> None:
    with pytest.raises(FnaError, match=r"lacks \d+ tensors, the first 'head\."):
        fna.evaluate(fna.seed_network(setting), setting)


def memory(n: int) -> SegmentationData:
    """Data that is in no file: left half dark, right half bright."""

    def read(position: int) -> Any:
        mask_HW = np.zeros((SIDE, SIDE), np.uint8)
        mask_HW[:, SIDE // 2 :] = 1
        noise_HW3 = np.random.default_rng(position).integers(0, 60, (SIDE, SIDE, 3))
        return (noise_HW3 + 150 * mask_HW[..., None]).astype(np.uint8), mask_HW

    names = tuple(f"{i}.png" for i in range(n))
    return SegmentationData(
        Listing(names, ("dark", "bright"), ((0, 0, 0), (255, 255, 255)), {0: 0, 1: 1}, read), "mine"
    )


def test_data_of_your_own() -> None:
    config: Config = tiny_config(Path("nowhere"))
    with fna.open_setting(config, seed=tiny_seed(), data=(memory(8), memory(2))) as setting:
        tuned = fna.adapt(fna.seed_network(setting), setting)
    assert set(tuned.scores["iou"]) == {"dark", "bright"}
    assert tuned.scores["miou"] > 0.3
