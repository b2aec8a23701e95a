"""Tiny runs of tasks that read features of stride 32, detection and pose: a deeper seed, alone or under torchrun."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import tiny
import torch
from tiny import STAGES, adapt_tiny, search_tiny

from fna.config import Config

DEEPER = (*STAGES, (32, 32, 2, 3, 1))  # in, out, stride, expansion, layers


opened = partial(tiny.opened, table=DEEPER)  # a job on the deeper seed


def train_and_save(configure: Callable[..., Config]) -> None:
    """Search, adapt and score in float64, as the command line says: IMAGES OUT [key=value ...].

    What came out is in OUT/RANK-of-SIZE.pt; other processes than the first get a folder of their own.

    Args:
        configure: returns the configuration of (IMAGES, *overrides).
    """
    torch.set_num_threads(1)
    images, out, *overrides = sys.argv[1:]
    with opened(configure(Path(images), *overrides), double=True) as job:
        world = job.compute.world
        name = f"{world.rank}-of-{world.size}"
        searched = search_tiny(job, Path(out, name))
        adapted = adapt_tiny(job, Path(out, name))
        results = {
            "searched": searched.network.state,
            "alphas": searched.evidence.values,
            "adapted": adapted.network.state,
        }
        torch.save({**results, "scores": adapted.scores}, Path(out, f"{name}.pt"))
