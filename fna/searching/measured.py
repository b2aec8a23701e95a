"""Measured choice: whole networks are scored with the super network's weights on training images it has not seen.

First the seed. Then the skip and the cheapest block of every layer, each put into the seed's path
alone: an additive estimate of what savings cost in loss, of which a knapsack makes the first generation at each scale.
Then evolution: children of the best, by mutation and crossover. The seed is always in the pool. Every score is a
function of the super network and the candidate, every proposal one of the random seed and the scores before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fna.arch import LayerPath
from fna.cost.costs import Costs
from fna.nets.supernet import path_network
from fna.progress import bar
from fna.rng import generator
from fna.searching.found import Candidate, Pool
from fna.searching.knapsack import best_path
from fna.training.batches import train_batches
from fna.training.engine import global_mean, recalibrate

if TYPE_CHECKING:
    from fna.searching.alphas import SearchLoop

PARENTS = 12  # of the best that have children
SPENT = 0.9  # a child spends at least this share of the budget
TRIES = 500  # children drawn until one is new and within the budget
MUTATION = 0.1  # chance of a layer to change
SHARES = (1.0, 0.97, 0.94)  # of the budget, that the knapsack's first generation spends
DOUBT = 2.0  # standard errors within which a difference of losses is noise


@dataclass
class Scorer:
    """Scores candidates of a trained super network; the batches are decoded once and kept.

    Args:
        loop: the search that trained it.
    """

    loop: SearchLoop
    batches: dict[float, tuple[list[Tensor], list[tuple[Any, Tensor]]]] = field(default_factory=dict)
    losses: dict[tuple[LayerPath, float], list[float]] = field(default_factory=dict)  # by batch

    def __call__(self, path: LayerPath, scale: float) -> float:
        """Return the mean loss of a path at an input scale over the held-out images."""
        if (path, scale) not in self.losses:
            self.losses[path, scale] = self._losses(path, scale)
        values = self.losses[path, scale]
        return math.fsum(values) / len(values)

    @torch.no_grad()
    def _losses(self, path: LayerPath, scale: float) -> list[float]:
        loop, compute = self.loop, self.loop.compute
        warm, held = self._batches(scale)
        problem = loop.problem.at_scale(scale)
        problem.tune(loop.model)
        network = path_network(loop.model, path)
        recalibrate(network, iter(warm), len(warm), compute)
        network.eval()
        losses = []
        for batch, images in held:
            with compute.autocast():
                output = network(images)
                loss_sum, weight = problem.loss(output, batch)
            losses.append(global_mean(loss_sum, weight, compute)[1])
        loop.problem.tune(loop.model)
        return losses

    def _batches(self, scale: float) -> tuple[list[Tensor], list[tuple[Any, Tensor]]]:
        """Return batches to recalibrate on and to score at one scale; the same samples at every scale."""
        if scale not in self.batches:
            loop, config = self.loop, self.loop.config
            data, compute, size = loop.data, loop.compute, config.batch_size
            own, others = loop.parts
            number = max(1, len(others) // (size * compute.world.size))

            def at(step: int) -> float:
                return scale

            warm = train_batches(loop.problem, data, own, size, "recalibrate", compute, (0, config.recalibrate), at)
            held = train_batches(loop.problem, data, others, size, "held out", compute, (0, number), at)
            self.batches[scale] = [images for _, images in warm], list(held)
        return self.batches[scale]


def measure(loop: SearchLoop) -> tuple[Pool, tuple[str, ...]]:
    """Score candidates of a trained super network.

    Returns:
        The pool, the seed among them, and warnings: that nothing is better than the seed, or only by noise.
    """
    buffers = {name: value.clone() for name, value in loop.model.named_buffers()}
    scorer, seed = Scorer(loop), loop.arch.seed_path()
    singles = list(_single_changes(loop))
    total = len(singles) + loop.config.candidates
    with bar(total, "candidates") as progress:

        def score(path: LayerPath, scale: float) -> float:
            loss = scorer(path, scale)
            progress.advance(1, loss=loss)
            return loss

        base = score(seed, 1.0)
        harms = {
            (layer, choice): score((*seed[:layer], choice, *seed[layer + 1 :]), 1.0) - base for layer, choice in singles
        }
        harm = _additive(loop, harms)
        pool = _Pool(loop, scorer)
        pool.add(seed, 1.0)
        for path, scale in _first_generation(loop, harm):
            score(path, scale)
            pool.add(path, scale)
        for _ in range(loop.config.candidates - len(pool.members)):
            child = pool.child()
            if child is None:
                break
            score(*child)
            pool.add(*child)
    with torch.no_grad():
        for name, value in loop.model.named_buffers():
            value.copy_(buffers[name])
    return Pool(tuple(pool.members.values())), _doubts(pool, scorer, seed)


def _single_changes(loop: SearchLoop) -> Iterator[tuple[int, int]]:
    """Yield (layer, candidate) of what saves most in each layer: the skip, and the cheapest block."""
    for layer, (costs, own) in enumerate(zip(loop.costs.table, loop.arch.seed_path(), strict=True)):
        cheap = sorted(j for j in range(len(costs)) if costs[j] < costs[own])
        blocks = [j for j in cheap if costs[j] > 0]
        for choice in sorted({j for j in cheap if costs[j] == 0} | set(sorted(blocks, key=lambda j: costs[j])[:1])):
            yield layer, choice


def _additive(loop: SearchLoop, harms: Mapping[tuple[int, int], float]) -> list[list[float]]:
    """Return how much loss each candidate is held to cost: what was measured, else in proportion to what it saves."""
    estimate = []
    for layer, (costs, own) in enumerate(zip(loop.costs.table, loop.arch.seed_path(), strict=True)):
        known = {choice: harm for (at, choice), harm in harms.items() if at == layer and costs[choice] > 0}
        least = min(known, key=lambda j: costs[j], default=own)
        span = max(costs[own] - costs[least], 1)
        estimate.append(
            [
                harms.get((layer, j), known.get(least, 0.0) * max(0.0, (costs[own] - cost) / span))
                for j, cost in enumerate(costs)
            ]
        )
    return estimate


def _first_generation(loop: SearchLoop, harm: Sequence[Sequence[float]]) -> Iterator[tuple[LayerPath, float]]:
    """Yield what the additive estimate holds for best at each scale, for some shares of the budget."""
    seen = set()
    for scale in loop.scales:
        costs = loop.costs_at[scale]
        for share in SHARES:
            room = int(share * limit_of(loop)) - costs.other
            if room < sum(map(min, costs.table)):
                continue
            path = best_path(costs.table, [[-h for h in row] for row in harm], room)
            if (path, scale) not in seen:
                seen.add((path, scale))
                yield path, scale


def limit_of(loop: SearchLoop) -> int:
    """Return the most that a candidate may cost; without a budget what the seed does."""
    return loop.costs.seed if loop.limit is None else loop.limit


@dataclass
class _Pool:
    """The candidates so far."""

    loop: SearchLoop
    scorer: Scorer
    members: dict[tuple[LayerPath, float], Candidate] = field(default_factory=dict)

    def add(self, path: LayerPath, scale: float) -> None:
        cost = self.costs(scale).whole(path)
        self.members[path, scale] = Candidate(path, cost, self.scorer(path, scale), scale=scale)

    def costs(self, scale: float) -> Costs:
        return self.loop.costs_at[scale]

    def best(self, number: int) -> list[Candidate]:
        """Return the best within the budget, of equal ones the cheaper."""
        limit = limit_of(self.loop)
        within = [c for c in self.members.values() if c.cost <= limit]
        return sorted(within, key=lambda c: (c.loss, c.cost, c.path, c.scale))[:number]

    def child(self) -> tuple[LayerPath, float] | None:
        """Return a new network near the best ones that spends the budget; None where none is found."""
        draw = generator(self.loop.compute.rng_seed, "child", len(self.members))
        parents, limit = self.best(PARENTS), limit_of(self.loop)

        def integer(stop: int) -> int:
            return int(torch.randint(stop, (), generator=draw))

        def chance() -> float:
            return float(torch.rand((), generator=draw))

        for _ in range(TRIES):
            one, other = parents[integer(len(parents))], parents[integer(len(parents))]
            crossed = chance() < 0.5
            path = [b if crossed and chance() < 0.5 else a for a, b in zip(one.path, other.path, strict=True)]
            for layer, costs in enumerate(self.loop.costs.table):
                if chance() < MUTATION:
                    path[layer] = integer(len(costs))
            scale = other.scale if crossed and chance() < 0.5 else one.scale
            if chance() < 0.2:
                scale = self.loop.scales[integer(len(self.loop.scales))]
            candidate = (tuple(path), scale)
            if candidate not in self.members and SPENT * limit <= self.costs(scale).whole(path) <= limit:
                return candidate
        return None


def _doubts(pool: _Pool, scorer: Scorer, seed: LayerPath) -> tuple[str, ...]:
    """Return a warning where nothing within the budget beats the seed, or where it may be luck."""
    best = pool.best(1)
    if not best or (best[0].path, best[0].scale) == (seed, 1.0):
        return ("nothing that was scored within the budget beats the seed on held-out training images",)
    pairs = zip(scorer.losses[seed, 1.0], scorer.losses[best[0].path, best[0].scale], strict=True)
    gains = torch.tensor([a - b for a, b in pairs], dtype=torch.float64)
    error = float(gains.std() / math.sqrt(len(gains))) if len(gains) > 1 else math.inf
    if float(gains.mean()) < DOUBT * error:
        return (
            f"undecided: the best candidate's held-out loss is {float(gains.mean()):.4f} below the seed's, with a "
            f"standard error of {error:.4f}; hold out more images or train longer",
        )
    return ()
