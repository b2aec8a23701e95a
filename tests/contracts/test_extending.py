"""What docs/extending.md promises: a new entry is one file or one row of a table, and works from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fna.seeds
from fna.arch import LayerPath
from fna.cli import main
from fna.config import DataConfig
from fna.cost.costs import Costs
from fna.data import segmentation
from fna.data.listing import Legend, Listing, Reader, palette
from fna.files import read_json
from fna.searching.choosing import CHOOSERS, Choice, choose_random
from fna.searching.found import Found
from fna.searching.sampling import SAMPLERS, Step

FAMILY = '''
"""A family in one file."""

from fna.arch import Arch, Block, Stem
from fna.seeds.variant import IMAGENET_MEAN, IMAGENET_STD, Variant

STAGES = (
    (Block("mbconv", 8, 8),),
    (Block("mbconv", 8, 16, stride=2, expansion=3), Block("mbconv", 16, 16, expansion=3)),
    (Block("mbconv", 16, 24, stride=2, expansion=3),),
    (Block("mbconv", 24, 32, stride=2, expansion=3),),
)
SEEDS = {"shiny": Variant(Arch(Stem(8), STAGES, num_classes=10), IMAGENET_MEAN, IMAGENET_STD, (), ())}
'''


def sample_last(step: Step, alphas: Sequence[torch.Tensor] | None, generator: torch.Generator) -> LayerPath:
    """Take the last candidate of every layer."""
    return tuple(len(candidates) - 1 for _, candidates in step.arch.layers())


def choose_luckily(found: Found, costs: Costs, limit: int | None, rng_seed: int) -> Choice:
    """Draw with a lucky number."""
    return choose_random(found, costs, limit, 7)


def read_stripes(root: Path, split: str, config: DataConfig) -> Listing:
    """Draw a few stripes."""

    def read(position: int) -> Any:
        mask_HW = np.tile(np.arange(64, dtype=np.uint8) // 16 % 2, (64, 1))
        return np.repeat(mask_HW[..., None] * 100 + position, 3, 2).astype(np.uint8), mask_HW

    names = tuple(f"{split}{i}.png" for i in range(6))
    return Listing(names, Legend(("dark", "bright"), palette(2), {0: 0, 1: 1}), read)


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One file for a seed family, one entry for each of the others."""
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "shiny_family.py").write_text(FAMILY)
    monkeypatch.setattr(fna.seeds, "__path__", [*fna.seeds.__path__, str(tmp_path / "families")])
    monkeypatch.setitem(SAMPLERS, "last", sample_last)
    monkeypatch.setitem(CHOOSERS, "lucky", choose_luckily)
    monkeypatch.setitem(segmentation.FORMATS, "stripes", Reader(read_stripes, "  nothing", on_disk=False))


@pytest.mark.usefixtures("extended")
def test_new_entries_work_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(
        """
seed: {name: shiny, weights: null}
task: {channels: 8}
data: {format: stripes, crop: [64, 64]}
space: {layers: [2, 1, 1], kernels: [3, 5], expansions: [3]}
search: {epochs: 2, alpha_start: 1, batch_size: 2, sampler: last, chooser: lucky, budget: 1.1}
adapt: {epochs: 1, batch_size: 2, recalibrate: 1}
engine: {precision: fp32, workers: 0, threads: 1}
"""
    )
    folder = tmp_path / "run"
    assert main(["run", str(tmp_path / "recipe.yaml"), "--run", str(folder), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["rows"]) == {"adapted", "baseline"}
    found, target = read_json(folder / "found.json"), read_json(folder / "targets" / "derived.json")
    assert (found["sampler"], found["chooser"]) == ("last", "lucky")
    assert 0.9 * target["budget"]["cost"] <= target["cost"] <= target["budget"]["cost"]
    sampled = {row.split(",")[5] for row in (folder / "search.csv").read_text().splitlines()[1:]}
    assert len(sampled) == 1, "the last candidate of every layer, at every step"


@pytest.mark.usefixtures("extended")
@pytest.mark.parametrize(
    ("what", "name"), [("seeds", "shiny"), ("samplers", "last"), ("choosers", "lucky"), ("formats", "stripes")]
)
def test_new_entries_are_listed(what: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what, "--json"]) == 0
    assert name in [row["name"] for row in json.loads(capsys.readouterr().out)[what]]


@pytest.mark.usefixtures("extended")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("search.sampler=lats", "unknown sampler 'lats' (did you mean 'last'?)"),
        ("search.chooser=luck", "unknown chooser 'luck' (did you mean 'lucky'?)"),
        ("seed.name=shinny", "unknown seed 'shinny' (did you mean 'shiny'?)"),
        ("data.format=stripe", "unknown data format of segmentation 'stripe' (did you mean 'stripes'?)"),
    ],
)
def test_misspelt_entries_are_answered_with_the_nearest(
    setting: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text(
        "seed: {name: shiny, weights: null}\ndata: {format: stripes, crop: [64, 64]}\nspace: {layers: [2, 1, 1]}\n"
    )
    words = ["run", str(tmp_path / "r.yaml"), "--run", str(tmp_path / "run"), f"--{setting}", "--search.batch_size=2"]
    assert main([*words, "--quiet"]) == 2
    assert message in capsys.readouterr().err
