"""Measured choice: whole networks are scored with the super network's weights on training images it has not seen.

First the seed. Then the skip and the cheapest block of every layer, each put into the seed's path alone: an additive
estimate of what savings cost in loss, of which a knapsack makes the first generation in each form (head width, input
scale, output stride); beside them the seed cut by hand to that form. Then evolution: children of the best, by mutation
and crossover. At last the neighbours of the best. The seed is always in the pool. Every score is a function of the
super network and the candidate, every proposal one of the random seed and the scores of the rounds before it: neither
an interruption nor the number of processes changes what is found.

Loss comes first, on crops: it is cheap and smooth. But it is of the pixels (anchors, heatmaps), and not what the task
is scored by: rare classes and small things hardly show in it. So the best by loss, some of each input scale, are scored
by the task's metric on whole images, and that decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fna.arch import LayerPath
from fna.arch.cutting import SPENT, cut_by_hand
from fna.arch.target import Form
from fna.errors import FnaError
from fna.progress import bar
from fna.rng import generator
from fna.searching.choosing import charged
from fna.searching.forms import SEEDS
from fna.searching.found import Candidate, Pool, by_loss, choose
from fna.searching.knapsack import best_path
from fna.searching.scoring import Candidacy, Scorer, seed_of
from fna.training.clock import Spent

if TYPE_CHECKING:
    from fna.searching.alphas import SearchLoop

ROUND = 10  # candidates that are proposed at once, from the same scores
PARENTS = 12  # of the best that have children
TRIES = 500  # children drawn until one is new and within the budget
MUTATION = 0.1  # chance of a layer to change
LOCAL = 0.2  # of the candidates are neighbours of the best
FINALISTS = 2  # of each input scale, and twice as many of all, are scored by the task's metric
TINY = 1e-9  # of a loss: beside it nothing is as good
CLEAR = 0.01  # a difference of metrics that is no noise
DOUBT = 2.0  # standard errors within which a difference of losses is noise


def measure(loop: SearchLoop, file: Path | None = None) -> tuple[Pool, tuple[str, ...], Spent]:
    """Score candidates of a trained super network.

    Args:
        loop: the search that trained it.
        file: where scores are kept until the choice is made.

    Returns:
        The pool, the seed among them; warnings: that nothing is better than the seed, or only by noise; and the time it
        took, that before an interruption included.
    """
    buffers = {name: value.clone() for name, value in loop.model.named_buffers()}
    seed, singles = seed_of(loop), list(_single_changes(loop))
    total = 1 + len(singles) + (loop.config.candidates + FINALISTS * len(loop.forms.choices)) * len(loop.limits)
    with bar(total, "candidates") as progress:
        scorer = Scorer(loop, file, lambda **number: progress.advance(1, **number))
        alone = [((*seed[0][:layer], choice, *seed[0][layer + 1 :]), SEEDS) for layer, choice in singles]
        scorer.score([seed, *alone])
        base = scorer.loss(*seed)
        harms = {at: scorer.loss(*one) - base for at, one in zip(singles, alone, strict=True)}
        harm, pools = _additive(loop, harms), []
        for limit in loop.limits:
            pools.append(_Pool(loop, scorer, harm, loop.costs.seed if limit is None else limit))
            _fill(pools[-1], seed)
            pools[-1].finish(seed)
    with torch.no_grad():
        for name, value in loop.model.named_buffers():
            value.copy_(buffers[name])
    members = {one: candidate for pool in pools for one, candidate in pool.members.items()}
    return Pool(tuple(members.values())), _doubts(pools[0], scorer, seed), scorer.spent


def _fill(pool: _Pool, seed: Candidacy) -> None:
    """Propose and score until there are as many candidates as the settings say, or nothing new is found."""
    pool.add([seed])
    while len(pool.members) < pool.loop.config.candidates and (proposed := pool.propose()):
        pool.scorer.score(proposed)
        pool.add(proposed)


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


def hand_cuts(loop: SearchLoop, limit: int) -> Iterator[Candidacy]:
    """Yield the seed, cut to a limit in each form as somebody without a search would; see `cut_by_hand`."""
    space, problem = loop.arch, loop.problem
    for form in loop.forms.within(limit):
        count = partial(charged, loop.forms.costs[form], space, limit)
        try:
            arch = cut_by_hand(space.seed, space, limit, count, problem.prepared(space.seed).taps)
        except FnaError:  # what is left of a layer is no candidate
            continue
        if arch is not None:
            yield space.path_of(arch), form


@dataclass
class _Pool:
    """The candidates for a budget so far, and what they suggest to try next."""

    loop: SearchLoop
    scorer: Scorer
    harm: Sequence[Sequence[float]]  # additive estimate
    limit: int  # the most that a candidate may cost
    members: dict[Candidacy, Candidate] = field(default_factory=dict)
    rounds: int = 0

    def add(self, scored: Sequence[Candidacy]) -> None:
        """Take in networks that have been scored."""
        for path, form in scored:
            loss = self.scorer.loss(path, form)
            self.members[path, form] = Candidate(path, self.cost(path, form), loss, None, *form)

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms in which some network is within the limit."""
        return self.loop.forms.within(self.limit)

    def cost(self, path: LayerPath, form: Form) -> int:
        """Return what a whole network costs."""
        return self.loop.forms.costs[form].whole(path)

    def finish(self, seed: Candidacy) -> None:
        """Score the seed and the best by loss by the task's metric, too; of each input scale some."""
        ranked = self.best(len(self.members))
        scales = dict.fromkeys(c.scale for c in ranked)
        finalists = [c for scale in scales for c in [c for c in ranked if c.scale == scale][:FINALISTS]]
        chosen = dict.fromkeys([seed, *((c.path, c.form) for c in [*ranked[: 2 * FINALISTS], *finalists])])
        self.scorer.measure(list(chosen))
        for one in chosen:
            self.members[one] = replace(self.members[one], score=self.scorer.metric(*one))

    def propose(self) -> list[Candidacy]:
        """Return the next networks to score, none where nothing new is found."""
        self.rounds += 1
        left = self.loop.config.candidates - len(self.members)
        if self.rounds == 1:
            return list(islice(self._new(self._first_generation()), left))
        local = int(LOCAL * self.loop.config.candidates)
        children = list(islice(self._new(self._children()), min(ROUND, left - local))) if left > local else []
        return children or list(islice(self._new(self._neighbours()), min(ROUND, left)))

    def _new(self, proposals: Iterator[Candidacy]) -> Iterator[Candidacy]:
        """Yield the proposals that are within the budget and not yet in the pool, each once."""
        seen = set(self.members)
        for one in proposals:
            if one not in seen and self.cost(*one) <= self.limit:
                seen.add(one)
                yield one

    def _first_generation(self) -> Iterator[Candidacy]:
        """Yield what the additive estimate holds for best in each form, then the seed cut by hand to each."""
        own = self.loop.arch.seed_path()  # of what costs and harms as little, the seed's block
        worth = [[-h - TINY * (j != at) for j, h in enumerate(row)] for row, at in zip(self.harm, own, strict=True)]
        for form in self.forms:
            table, room = self.loop.forms.costs[form].added(self.limit)
            yield best_path(table, worth, room), form
        yield from hand_cuts(self.loop, self.limit)

    def best(self, number: int) -> list[Candidate]:
        """Return the best within the budget, of equal ones the cheaper."""
        within = [c for c in self.members.values() if c.cost <= self.limit]
        return sorted(within, key=by_loss)[:number]

    def _children(self) -> Iterator[Candidacy]:
        """Yield networks near the best ones that spend the budget."""
        draw = generator(self.loop.compute.rng_seed, "children", self.rounds)
        parents, forms = self.best(PARENTS), self.forms

        def integer(stop: int) -> int:
            return int(torch.randint(stop, (), generator=draw))

        def chance() -> float:
            return float(torch.rand((), generator=draw))

        for _ in range(TRIES * ROUND):
            one, other = parents[integer(len(parents))], parents[integer(len(parents))]
            crossed = chance() < 0.5
            path = [b if crossed and chance() < 0.5 else a for a, b in zip(one.path, other.path, strict=True)]
            for layer, costs in enumerate(self.loop.costs.table):
                if chance() < MUTATION:
                    path[layer] = integer(len(costs))
            form = (other if crossed and chance() < 0.5 else one).form
            if chance() < 0.2 or form not in forms:
                form = forms[integer(len(forms))]
            if SPENT * self.limit <= self.loop.forms.costs[form].charged(path, self.limit):
                yield tuple(path), form

    def _neighbours(self) -> Iterator[Candidacy]:
        """Yield the best network with one layer or its form changed, what is held for the least harm first."""
        (best,) = self.best(1)
        changes: list[tuple[float, Candidacy]] = [(0.0, (best.path, form)) for form in self.forms]
        for layer, row in enumerate(self.harm):
            own = best.path[layer]
            for choice in range(len(row)):
                path = (*best.path[:layer], choice, *best.path[layer + 1 :])
                changes.append((row[choice] - row[own], (path, best.form)))
        yield from (one for _, one in sorted(changes, key=lambda change: (change[0], change[1][0], change[1][1].order)))


def _doubts(pool: _Pool, scorer: Scorer, seed: Candidacy) -> tuple[str, ...]:
    """Return a warning where nothing within the budget beats the seed, or where it may be luck."""
    best = choose(list(pool.members.values()), pool.limit)
    if best is None or (best.path, best.form) == seed:
        return ("nothing that was scored within the budget beats the seed on held-out training images",)
    gained = (best.score or 0.0) - scorer.metric(*seed)
    pairs = zip(scorer.losses(*seed), scorer.losses(best.path, best.form), strict=True)
    gains = torch.tensor([a - b for a, b in pairs], dtype=torch.float64)
    error = float(gains.std() / math.sqrt(len(gains))) if len(gains) > 1 else math.inf
    if float(gains.mean()) < DOUBT * error and gained < CLEAR:
        spread = f"standard error {error:.4f}" if len(gains) > 1 else "on one batch"
        return (
            f"undecided: the best candidate's held-out {pool.loop.problem.task.metric} is {100 * gained:+.1f} beside "
            f"the seed's, its loss {float(gains.mean()):.4f} below, {spread}; hold out more images or train longer",
        )
    return ()
