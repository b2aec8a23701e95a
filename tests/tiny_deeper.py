"""Tiny runs of tasks that read features of stride 32, detection and pose: a deeper seed, alone or under torchrun."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tiny import STAGES, Double, adapt_tiny, search_tiny

from fna.arch import Arch, Block, Stem
from fna.config import Config
from fna.engine import computing
from fna.seeds import IMAGENET_MEAN, IMAGENET_STD, Seed
from fna.training import Setting, open_data

DEEPER = (*STAGES, (32, 32, 2, 3, 1))  # in, out, stride, expansion, layers


def deeper_seed() -> Seed:
    """Return a seed of few layers without weights, whose last stage has stride 32."""
    stages = tuple(
        tuple(
            Block("mbconv", before if n == 0 else after, after, stride=stride if n == 0 else 1, expansion=expansion)
            for n in range(layers)
        )
        for before, after, stride, expansion, layers in DEEPER
    )
    return Seed("deeper", Arch(Stem(8), stages), None, IMAGENET_MEAN, IMAGENET_STD, "drawn", "", None)


@contextmanager
def opened(config: Config, *, double: bool = False) -> Iterator[Setting]:
    """Open a setting on the deeper seed, under torchrun among the other processes."""
    with computing(config.engine) as compute:
        yield open_data(config, Double(**vars(compute)) if double else compute, deeper_seed())


def train_and_save(configure: Callable[..., Config]) -> None:
    """Search, adapt and score in float64, as the command line says: IMAGES OUT [key=value ...].

    What came out is in OUT/RANK-of-SIZE.pt; other processes than the first get a folder of their own.

    Args:
        configure: returns the configuration of (IMAGES, *overrides).
    """
    torch.set_num_threads(1)
    images, out, *overrides = sys.argv[1:]
    with opened(configure(Path(images), *overrides), double=True) as setting:
        world = setting.compute.world
        name = f"{world.rank}-of-{world.size}"
        searched = search_tiny(setting, Path(out, name))
        adapted = adapt_tiny(setting, Path(out, name))
        results = {"searched": searched.state, "alphas": searched.alphas, "adapted": adapted.state}
        torch.save({**results, "scores": adapted.scores}, Path(out, f"{name}.pt"))
