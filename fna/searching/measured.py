"""Measured choice: whole networks are scored with the super network's weights on training images it has not seen.

First the seed. Then the skip and the cheapest block of every layer, each put into the seed's path alone: an additive
estimate of what savings cost in loss, of which a knapsack makes the first generation in each form (head width, input
scale, output stride); beside them the seed cut by hand to that form. Then evolution: children of the best, by mutation
and crossover, that spend the budget. The seed is always in the pool. Every score is a function of the super network and
the candidate, every proposal one of the random seed and the scores of the rounds before it: neither an interruption nor
the number of processes changes what is found. (Trials are trainings: with ``engine.sync_bn``, as it is by default, they
depend on the number of processes no more than any other.)

Loss comes first, on crops: it is cheap and smooth. But it is of the pixels (anchors, heatmaps), and not what the task
is scored by: rare classes and small things hardly show in it, and that of larger crops is of other sums. Nor do shared
weights serve all input scales alike. So the seed and the best by loss of each scale that spends the budget have a
trial: they are trained for a while by themselves, then scored by the task's metric on whole images, and that decides on
a form. At last children and neighbours of the best in that form are scored by loss, the best of them and the seed cut
by hand have a trial, too, and that decides again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fna.arch import LayerPath
from fna.arch.cutting import SPENT, cut_by_hand
from fna.arch.target import Form
from fna.cost.costs import Costs
from fna.errors import FnaError
from fna.progress import bar
from fna.rng import generator
from fna.searching.choosing import charged
from fna.searching.forms import SEEDS
from fna.searching.found import Candidate, Pool, by_loss, choose
from fna.searching.knapsack import best_path
from fna.searching.scoring import Candidacy, Scorer, seed_of
from fna.searching.trials import try_out
from fna.training.clock import Spent

if TYPE_CHECKING:
    from fna.searching.alphas import SearchLoop

ROUND = 10  # candidates that are proposed at once, from the same scores
PARENTS = 12  # of the best that have children
TRIES = 500  # children drawn until one is new and within the budget
MUTATION = 0.1  # chance of a layer to change
LOCAL = 0.3  # of the candidates are of the form that the metric has chosen
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
    finals = finalists({form.scale for form in loop.forms.choices})
    total = 1 + len(singles) + (loop.config.candidates + finals) * len(loop.limits)
    with bar(total, "candidates") as progress:
        scorer = Scorer(loop, file, lambda **number: progress.advance(1, **number))
        alone = [((*seed[0][:layer], choice, *seed[0][layer + 1 :]), SEEDS) for layer, choice in singles]
        scorer.score([seed, *alone])
        base = scorer.loss(*seed)
        harms = {at: scorer.loss(*one) - base for at, one in zip(singles, alone, strict=True)}
        harm, members = _additive(loop, harms), dict[Candidacy, Candidate]()
        limits = [loop.costs.seed if limit is None else limit for limit in loop.limits]
        evolutions = [_Evolution(loop, scorer, harm, limit, members) for limit in limits]
        for evolution in evolutions:
            evolution.search(seed)
    with torch.no_grad():
        for name, value in loop.model.named_buffers():
            value.copy_(buffers[name])
    return Pool(tuple(members.values())), _doubts(evolutions[0], scorer, seed), scorer.spent


def finalists(scales: Collection[float]) -> int:
    """Return how many networks have a trial for a budget, at most."""
    return 2 + len(scales) + 2


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


def hand_cuts(loop: SearchLoop, limit: int, forms: Sequence[Form]) -> Iterator[Candidacy]:
    """Yield the seed, cut to a limit in each form as somebody without a search would; see `cut_by_hand`."""
    space, problem = loop.arch, loop.problem
    for form in forms:
        count = partial(charged, loop.forms.costs[form], space, limit)
        try:
            arch = cut_by_hand(space.seed, space, limit, count, problem.prepared(space.seed).taps)
        except FnaError:  # what is left of a layer is no candidate
            continue
        if arch is not None:
            yield space.path_of(arch), form


@dataclass
class _Evolution:
    """The search for a budget: the candidates so far, and what they suggest to try next."""

    loop: SearchLoop
    scorer: Scorer
    harm: Sequence[Sequence[float]]  # additive estimate
    limit: int  # the most that a candidate may cost
    members: dict[Candidacy, Candidate]  # those of the budgets before it, too
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

    def _spends(self, candidate: Candidate) -> bool:
        """Tell whether a candidate takes nearly all of the budget."""
        return SPENT * self.limit <= self.loop.forms.costs[candidate.form].charged(candidate.path, self.limit)

    def search(self, seed: Candidacy) -> None:
        """Propose and score as many candidates as the settings say, or until nothing new is found."""
        new = self.loop.config.candidates
        total, local = len(self.members) + new, int(LOCAL * new)
        self.add([seed])
        self._grow(partial(iter, list(self._first_generation())), total, total)
        self._grow(partial(self._children, self.forms), total - local)
        ranked = self.best()
        of_scales = {c.scale: c for c in reversed(ranked) if self._spends(c)}
        self._try([seed, *((c.path, c.form) for c in [ranked[0], *of_scales.values()])])
        if (chosen := choose(list(self.members.values()), self.limit)) is not None:
            self._grow(partial(self._children, (chosen.form,)), total - local // 2)
            self._grow(partial(self._neighbours, chosen.form), total)
            best = self.best(chosen.form)[0]
            cuts = (one for one in hand_cuts(self.loop, self.limit, [chosen.form]) if one in self.members)
            self._try([(best.path, best.form), *cuts])

    def _grow(self, propose: Callable[[], Iterator[Candidacy]], total: int, at_once: int = ROUND) -> None:
        """Score what is proposed until there are so many candidates, or nothing new."""
        while (left := total - len(self.members)) > 0:
            self.rounds += 1
            proposed = list(islice(self._new(propose()), min(at_once, left)))
            if not proposed:
                break
            self.scorer.score(proposed)
            self.add(proposed)

    def _try(self, scored: Sequence[Candidacy]) -> None:
        """Give networks of the pool a trial, after which the task's metric is known."""
        finals = list(dict.fromkeys(scored))
        try_out(self.scorer, finals)
        for one in finals:
            self.members[one] = replace(self.members[one], score=self.scorer.metric(*one))

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
        yield from hand_cuts(self.loop, self.limit, self.forms)

    def best(self, form: Form | None = None) -> list[Candidate]:
        """Return the candidates within the budget, the best by loss first, of equal ones the cheaper."""
        within = (c for c in self.members.values() if c.cost <= self.limit and form in (None, c.form))
        return sorted(within, key=by_loss)

    def _children(self, forms: Sequence[Form]) -> Iterator[Candidacy]:
        """Yield networks near the best ones, in some forms, that spend the budget."""
        draw = generator(self.loop.compute.rng_seed, "children", self.rounds)
        parents = [c for c in self.best() if c.form in forms][:PARENTS]

        def integer(stop: int) -> int:
            return int(torch.randint(stop, (), generator=draw))

        def chance() -> float:
            return float(torch.rand((), generator=draw))

        for _ in range(TRIES * ROUND):
            one, other = parents[integer(len(parents))], parents[integer(len(parents))]
            crossed = chance() < 0.5
            path = [b if crossed and chance() < 0.5 else a for a, b in zip(one.path, other.path, strict=True)]
            for layer, row in enumerate(self.loop.costs.table):
                if chance() < MUTATION:
                    path[layer] = integer(len(row))
            form = (other if crossed and chance() < 0.5 else one).form
            if chance() < 0.2 or form not in forms:
                form = forms[integer(len(forms))]
            costs = self.loop.forms.costs[form]
            self._grow_path(path, costs, integer)
            if SPENT * self.limit <= costs.charged(path, self.limit):
                yield tuple(path), form

    def _grow_path(self, path: list[int], costs: Costs, integer: Callable[[int], int]) -> None:
        """Make blocks of a path dearer, of layers drawn one after the other, until it spends the budget."""
        layers = list(range(len(path)))
        while layers and costs.charged(path, self.limit) < SPENT * self.limit:
            layer = layers.pop(integer(len(layers)))
            own, row = path[layer], costs.table[layer]
            dearer = [j for j in range(len(row)) if row[j] > row[own]]
            within = [j for j in dearer if costs.whole([*path[:layer], j, *path[layer + 1 :]]) <= self.limit]
            path[layer] = within[integer(len(within))] if within else own

    def _neighbours(self, form: Form) -> Iterator[Candidacy]:
        """Yield the best network of a form with one layer changed, what is held for the least harm first.

        Of what is held for equal, what spends the most of the budget is first.
        """
        best, costs = self.best(form)[0], self.loop.forms.costs[form]
        changes = []
        for layer, row in enumerate(self.harm):
            for choice, harm in enumerate(row):
                path = (*best.path[:layer], choice, *best.path[layer + 1 :])
                changes.append((harm - row[best.path[layer]], -costs.whole(path), path))
        yield from ((path, form) for *_, path in sorted(changes))


def _doubts(evolution: _Evolution, scorer: Scorer, seed: Candidacy) -> tuple[str, ...]:
    """Return a warning where nothing within the budget beats the seed, or where it may be luck."""
    best = choose(list(evolution.members.values()), evolution.limit)
    if best is None or (best.path, best.form) == seed:
        return ("nothing that was scored within the budget beats the seed on held-out training images",)
    gained = (best.score or 0.0) - scorer.metric(*seed)
    pairs = zip(scorer.last_losses(*seed), scorer.last_losses(best.path, best.form), strict=True)
    gains = torch.tensor([a - b for a, b in pairs], dtype=torch.float64)
    error = float(gains.std() / math.sqrt(len(gains))) if len(gains) > 1 else math.inf
    if float(gains.mean()) < DOUBT * error and gained < CLEAR:
        spread = f"standard error {error:.4f}" if len(gains) > 1 else "on one batch"
        metric = evolution.loop.problem.task.metric
        return (
            f"undecided: the best candidate's held-out {metric} is {100 * gained:+.1f} beside the seed's, its loss "
            f"{float(gains.mean()):.4f} below, {spread}; hold out more images or train longer",
        )
    return ()
