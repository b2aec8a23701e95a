"""How fast a network trains here: a few real steps of fresh weights on one batch."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from fna.arch import Arch
from fna.config import AdaptConfig
from fna.tasks.problem import Problem
from fna.training.compute import Compute
from fna.training.engine import Batch, WeightStep, make_optimizer

STEPS = 2  # timed, after one that is not; the faster counts, since other processes can only slow it down


@dataclass(frozen=True)
class Pace:
    """Seconds of a training step, and of only running the network on as many images."""

    step: float
    forward: float


def measure_pace(
    problem: Problem, arch: Arch, batch: Batch, images_N3HW: Tensor, config: AdaptConfig, compute: Compute
) -> Pace:
    """Time training steps of a task's network with fresh weights.

    Args:
        problem: what it is for.
        arch: the backbone, undilated.
        batch: the truths of a batch of this problem.
        images_N3HW: its images, normalised, on the device.
        config: the optimizer.
        compute: hardware.
    """
    model = problem.build(arch)
    network = compute.parallel(model, partial=False).train()
    optimizer = make_optimizer(model, config.optimizer)
    step = WeightStep(network, optimizer, config.optimizer, problem.loss, compute, STEPS + 1, STEPS + 1)
    steps = [_seconds(lambda n=n: step(n, batch, images_N3HW), compute) for n in range(STEPS + 1)]
    network.eval()

    @torch.no_grad()
    def forward() -> None:
        with compute.autocast():
            network(images_N3HW)

    return Pace(min(steps[1:]), min(_seconds(forward, compute) for _ in range(STEPS)))


def _seconds(work: object, compute: Compute) -> float:
    began = time.monotonic()
    assert callable(work)
    work()
    if compute.device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - began
