"""What alphas pay for cost, beside the task's loss: a fixed price, or the one that holds the cost at a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def objective(task_loss: Tensor, cost: Tensor, weight: float) -> Tensor:
    """Return the loss of the alphas, task + weight * lg cost.

    Args:
        task_loss: mean loss of the batch, a scalar.
        cost: expected cost of the searchable layers in 1e9 MAdds (1e6 params), a scalar.
        weight: the article's lambda.

    Implements: FNA++ Eq. (8).
    """
    return task_loss + weight * torch.log10(cost)


@dataclass
class Holder:
    """Holds the expected cost at a budget, in place of a fixed lambda.

    The penalty is an augmented Lagrangian of the constraint lg(cost / budget) = 0: its multiplier grows while the
    network is too dear and falls, below zero if need be, while it is too cheap. So neither all-skip nor all-largest is
    an attractor. It needs time: where the task's gradient is steep against `rate` and `weight`, a short search ends
    off the budget; `collapse` reports that, and the derivation keeps to the budget all the same.

    It is weighed against the relative change of the task's loss (the gradient of its logarithm). So one `rate` and
    `weight` serve every task, be its loss a cross entropy near 1 or the squared error of heatmaps near 0.001, beside
    which a penalty of fixed size would drown what the candidates are worth.

    Args:
        target: cost of the layers to hold.
        rate: step size of the multiplier.
        weight: of the quadratic term.
        multiplier: the current price of a tenfold cost.
    """

    target: float
    rate: float
    weight: float
    multiplier: float = 0.0

    def penalty(self, cost: Tensor) -> Tensor:
        """Return the term to add to the task's loss, a scalar."""
        excess = torch.log10(cost / self.target)
        return self.multiplier * excess + self.weight * excess.square()

    def update(self, cost: float) -> None:
        """Move the multiplier after a step that ended at `cost`."""
        self.multiplier += self.rate * math.log10(cost / self.target)
