"""A run in miniature for tests that train: blocky images, a seed of six small layers, milliseconds a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

from fna.arch import Arch, Block, Stem
from fna.config import Config, make_config, merge
from fna.data.splits import Splits, open_data
from fna.nets.weights import Network
from fna.searching.alphas import search
from fna.searching.found import Candidate, Found, Pool
from fna.seeds import IMAGENET_MEAN, IMAGENET_STD, Seed
from fna.stages.adapt import Tuned, adapt
from fna.stages.expand import expand
from fna.stages.predict import Finished
from fna.tasks.problem import Problem
from fna.training.checkpoints import Checkpoints
from fna.training.compute import Compute, computing

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
        "search": {
            "sampler": "uniform",
            "chooser": "alphas",
            "epochs": 5,
            "alpha_start": 2,
            "batch_size": 2,
            "optimizer": optimizer,
            "alpha": {"lr": 0.02},
        },
        "adapt": {"epochs": 4, "batch_size": 4, "recalibrate": 2, "optimizer": optimizer},
        "baseline": False,
        "evaluate": {"every": 2},
        "engine": {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 0},
    }
    data["engine"] |= {"checkpoint_steps": 2, "checkpoint_seconds": 0.0}
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


@dataclass(frozen=True)
class Job:
    """What the stages take, in one place for tests."""

    problem: Problem
    data: Splits
    compute: Compute
    seed: Seed

    @property
    def config(self) -> Config:
        return self.problem.config

    def with_loss(self, loss: Callable[..., tuple[Tensor, Tensor]]) -> Job:
        """Return the job with another loss."""
        return replace(self, problem=replace(self.problem, task=replace(self.problem.task, loss=loss)))


@contextmanager
def opened(config: Config, *, double: bool = False, table: tuple[tuple[int, ...], ...] = STAGES) -> Iterator[Job]:
    """Open a job on the tiny seed, under torchrun among the other processes."""
    with computing(config.engine) as compute:
        seed, data = tiny_seed(table), open_data(config)
        problem = Problem.of(config, data.val, seed)
        yield Job(problem, data, Double(**vars(compute)) if double else compute, seed)


def job_of_module(*overrides: str, table: tuple[tuple[int, ...], ...] = STAGES) -> Callable[..., Iterator[Job]]:
    """Return a fixture: a job with settings of its own on images of its own, opened once in a module."""

    @pytest.fixture(scope="module")
    def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
        images = write_images(tmp_path_factory.mktemp("data") / "images")
        with opened(tiny_config(images, *overrides), table=table) as ready:
            yield ready

    return job


def search_tiny(job: Job, folder: Path) -> Found:
    """Search from the tiny seed, or go on; checkpoints and logs are kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return search(
        expand(job.seed, job.problem),
        job.problem,
        job.data.train,
        job.compute,
        checkpoints=Checkpoints(folder / "search"),
        logs=(folder / "search.csv", folder / "entropy.csv"),
    )


def counted_pool(job: Job, found: Found) -> tuple[Candidate, ...]:
    """Check that a search's candidates cost what counting them says and survive JSON; return them."""
    assert isinstance(found.evidence, Pool)
    pool = found.evidence.candidates
    for candidate in pool:
        assert candidate.cost == job.problem.at(candidate).cost(found.network.arch.path_arch(candidate.path)).madds
    again = Found.from_json(found.to_json(), found.network)
    assert again.evidence == Pool(tuple(sorted(pool, key=lambda c: (c.loss, c.cost))))
    return pool


def adapt_tiny(job: Job, folder: Path) -> Tuned:
    """Fine-tune the tiny seed, or go on; checkpoints and logs are kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return adapt(
        Network(job.seed.arch, {}),
        job.problem,
        job.data,
        job.compute,
        checkpoints=Checkpoints(folder / "adapt"),
        logs=(folder / "adapt.csv", folder / "scores.csv"),
    )


def finished(job: Job) -> Finished:
    """Return an untrained network on the tiny seed as one that is loaded, placed."""
    model = Finished(job.problem.build(job.seed.arch), job.problem, {"arch": job.seed.arch.to_json()})
    job.compute.place(model)
    return model
