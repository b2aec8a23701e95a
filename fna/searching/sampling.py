"""How paths are drawn while the super network's weights learn; `SAMPLERS` at the foot names the ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fna.arch import LayerPath, SuperArch
from fna.config import SearchConfig
from fna.cost.costs import Costs

TRIES = 20  # paths drawn until one is in the window
HALVINGS = 40  # of the interval in which a tilt is sought


@dataclass(frozen=True)
class Step:
    """What a path of a step is drawn for.

    Args:
        arch: the search space.
        costs: of the space's networks in the form (head width, input scale, output stride) of the step.
        limit: the most a whole network may cost; None: anything.
        config: settings of the search.
        anchor: whether it is one of the steps that run the seed.
    """

    arch: SuperArch
    costs: Costs
    limit: int | None
    config: SearchConfig
    anchor: bool = False


Sampler = Callable[[Step, Sequence[Tensor] | None, torch.Generator], LayerPath]


def sample_uniform(step: Step, alphas: Sequence[Tensor] | None, generator: torch.Generator) -> LayerPath:
    """Draw one candidate per layer: uniformly until the alphas move, then from softmax(alpha), as the article does."""
    return draw_path(step.arch, alphas, generator)


def draw_path(arch: SuperArch, alphas: Sequence[Tensor] | None, generator: torch.Generator) -> LayerPath:
    """Draw one candidate per layer.

    Args:
        arch: the search space.
        alphas: one vector per layer (length = its candidates), to draw from their softmax; None: uniformly.
        generator: the source of chance, on the CPU.
    """
    path = []
    for i, (_, candidates) in enumerate(arch.layers()):
        n = len(candidates)
        probabilities = torch.ones(n) if alphas is None else alphas[i].detach().softmax(0)
        path.append(int(torch.multinomial(probabilities, 1, generator=generator)) if n > 1 else 0)
    return tuple(path)


def sample_anchored(step: Step, alphas: Sequence[Tensor] | None, generator: torch.Generator) -> LayerPath:
    """Draw the seed's own path, or one near it whose cost lies in a window of the budget.

    A share ``search.anchor`` of the steps runs the seed, in each form as often as the other steps have it: else its own
    form would be trained most, and be scored for the best. In the others a layer has the seed's block with probability
    ``search.near``, else any; all are tilted towards cheap blocks until the expected cost is one drawn from
    ``search.window`` x the budget.
    """
    seed = step.arch.seed_path()
    if step.anchor:
        return seed
    low, high = step.config.window
    limit = step.costs.seed if step.limit is None else step.limit
    wanted = limit * (low + (high - low) * float(torch.rand((), generator=generator)))
    probabilities = tilted(near(step.costs.table, seed, step.config.near), step.costs, wanted)
    path = seed
    for _ in range(TRIES):
        path = tuple(
            int(torch.multinomial(torch.from_numpy(p), 1, generator=generator)) if len(p) > 1 else 0
            for p in probabilities
        )
        if low * limit <= step.costs.charged(path, limit) <= high * limit:
            break
    return path


def near(table: Sequence[Sequence[int]], seed: LayerPath, share: float) -> list[NDArray[np.float64]]:
    """Return probabilities of every layer's candidates: the seed's block with `share` more than the others."""
    return [
        np.full(len(costs), (1 - share) / len(costs)) + share * (np.arange(len(costs)) == own)
        for costs, own in zip(table, seed, strict=True)
    ]


def tilted(probabilities: Sequence[NDArray[np.float64]], costs: Costs, wanted: float) -> list[NDArray[np.float64]]:
    """Return the probabilities, tilted exponentially towards cheap blocks until the expected cost is at most `wanted`.

    Args:
        probabilities: a vector per layer.
        costs: of the layers' candidates, and of what is outside them.
        wanted: cost of the whole network; below the cheapest one the cheapest is all but certain.
    """
    table, room = costs.added(wanted)
    unit = float(max(max(row) for row in table)) or 1.0
    layers = [np.array(row, np.float64) / unit for row in table]
    room /= unit

    def tilt(price: float) -> list[NDArray[np.float64]]:
        weights = [p * np.exp(-price * (c - c.min())) for p, c in zip(probabilities, layers, strict=True)]
        return [w / w.sum() for w in weights]

    def expected(price: float) -> float:
        return float(sum((p * c).sum() for p, c in zip(tilt(price), layers, strict=True)))

    if expected(0.0) <= room:
        return list(probabilities)
    low, high = 0.0, 1.0
    while expected(high) > room and high < 1e6:
        low, high = high, 4 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if expected(middle) > room else (low, middle)
    return tilt(high)


SAMPLERS: dict[str, Sampler] = {"uniform": sample_uniform, "anchored": sample_anchored}
