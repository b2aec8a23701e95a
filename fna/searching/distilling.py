"""In-place distillation (arXiv:1903.05134): paths learn from what the seed's path makes of the same images, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fna.nets.network import Model
from fna.nets.supernet import still_norms
from fna.tasks.problem import Problem
from fna.training.compute import Compute
from fna.training.engine import global_sums


@torch.no_grad()
def teach(model: Model, path: Sequence[int], images_N3HW: Tensor, compute: Compute) -> Any:
    """Return the output of a path of a super network, by the statistics of the batch; nothing in it changes."""
    with still_norms(model), compute.autocast():
        return model(images_N3HW, path)


@dataclass
class Lesson:
    """The loss of a step that has a teacher.

    Args:
        problem: in the form of the step.
        teacher: the teacher's output for the images of the step.
        weight: ``search.distill``.
    """

    problem: Problem
    teacher: Any
    weight: float
    sums: Tensor = field(init=False)  # distillation and number of its terms, over all processes

    def __call__(self, output: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the task's summed loss with the weighted distillation, and the number of terms."""
        loss_sum, number = self.problem.loss(output, batch)
        distance = self.problem.distillation(output, self.teacher, batch)
        self.sums = global_sums(distance, number)
        return loss_sum + self.weight * distance, number

    @property
    def distance(self) -> Tensor:
        """The mean distillation of the step, a scalar on the device."""
        return self.sums[0] / self.sums[1].clamp_min(1)
