"""A run in miniature for tests that train: blocky images, a seed of six small layers, milliseconds a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from fna.arch import Arch, Block, Stem
from fna.config import Config, make_config, merge
from fna.searching import Searched, search
from fna.seeds import IMAGENET_MEAN, IMAGENET_STD, Seed
from fna.stages.adapt import Adapted, adapt
from fna.stages.expand import expand
from fna.training.checkpoints import Checkpoints
from fna.training.engine import Compute, computing
from fna.training.setting import Setting, open_data, put

SIDE = 64  # of an image in pixels
STAGES = (  # in, out, stride, expansion, layers
    (8, 8, 1, 1, 1),
    (8, 16, 2, 3, 2),
    (16, 24, 2, 3, 2),
    (24, 32, 2, 3, 1),
)


def write_images(root: Path, train: int = 12, val: int = 4) -> Path:
    """Write a data set of format ``folder``: 16 squares of 3 classes an image, each class of its own brightness."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(train + val):
        mask_HW = np.kron(rng.integers(0, 3, (4, 4)), np.ones((SIDE // 4, SIDE // 4))).astype(np.uint8)
        image_HW3 = mask_HW[..., None] * 80 + rng.normal(40, 20, (SIDE, SIDE, 3))
        Image.fromarray(image_HW3.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(mask_HW).save(root / "masks" / f"{i}.png")
    (root / "train.txt").write_text("".join(f"{i}\n" for i in range(train)))
    (root / "val.txt").write_text("".join(f"{i}\n" for i in range(train, train + val)))
    return root


def tiny_config(root: Path, *overrides: str) -> Config:
    """Return the configuration of a run on `root`: 15 iterations of search, 12 of adaptation."""
    optimizer = {"name": "sgd", "lr": 0.02, "weight_decay": 1e-4, "warmup": 3}
    data: dict[str, Any] = {
        "seed": {"name": "mobilenet_v2_035", "weights": None},
        "task": {"channels": 8},
        "data": {"format": "folder", "root": str(root), "classes": ["a", "b", "c"], "crop": [SIDE, SIDE]},
        "space": {"kernels": [3, 5], "expansions": [3], "layers": [2, 2, 1]},
        "search": {"epochs": 5, "alpha_start": 2, "batch_size": 2, "optimizer": optimizer, "alpha": {"lr": 0.02}},
        "adapt": {"epochs": 4, "batch_size": 4, "recalibrate": 2, "optimizer": optimizer},
        "baseline": False,
        "evaluate": {"every": 2},
        "engine": {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 0, "checkpoint_steps": 2},
    }
    return make_config(merge(data, overrides))


def tiny_seed(table: tuple[tuple[int, ...], ...] = STAGES) -> Seed:
    """Return a seed of few layers without weights, six unless told."""
    stages = tuple(
        tuple(
            Block("mbconv", before if n == 0 else after, after, stride=stride if n == 0 else 1, expansion=expansion)
            for n in range(layers)
        )
        for before, after, stride, expansion, layers in table
    )
    return Seed("tiny", Arch(Stem(8), stages), None, IMAGENET_MEAN, IMAGENET_STD, "drawn", "", None)


class Double(Compute):
    """Computes in float64, where another order of summation is not amplified to other results by ReLU."""

    def place(self, model: nn.Module) -> nn.Module:
        return super().place(model.double())

    def images(self, images_N3HW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        return super().images(images_N3HW, mean, std).double()


@contextmanager
def opened(config: Config, *, double: bool = False, table: tuple[tuple[int, ...], ...] = STAGES) -> Iterator[Setting]:
    """Open a setting on the tiny seed, under torchrun among the other processes."""
    with computing(config.engine) as compute:
        yield open_data(config, Double(**vars(compute)) if double else compute, tiny_seed(table))


def search_tiny(setting: Setting, folder: Path) -> Searched:
    """Search from the tiny seed, or go on; checkpoints and logs are kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    grown = expand(setting)
    costs = grown.costs
    return search(
        grown.arch,
        put(grown.state, "backbone"),
        costs.table,
        costs.other,
        costs.budget,
        setting,
        checkpoints=Checkpoints(folder / "search"),
        logs=(folder / "search.csv", folder / "entropy.csv"),
    )


def adapt_tiny(setting: Setting, folder: Path) -> Adapted:
    """Fine-tune the tiny seed, or go on; checkpoints and logs are kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return adapt(
        setting.seed.arch,
        {},
        setting.config.adapt,
        setting,
        checkpoints=Checkpoints(folder / "adapt"),
        logs=(folder / "adapt.csv", folder / "scores.csv"),
    )
