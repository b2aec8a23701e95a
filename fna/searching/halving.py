"""Successive halving: candidates are trained for real, each with weights of its own, and the worse half is dropped.

No weights are shared, so nothing depends on how well a super network ranks: an honest yardstick, and the choice where
data are so few that a short training costs little. All start from the remapped seed. The iterations of the search are
spent in equal parts on all candidates, on the better half of them, and so on down to two.

Source: successive halving (arXiv:1502.07943).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from torch import Tensor

from fna.arch import LayerPath
from fna.arch.cutting import SPENT
from fna.arch.target import Form
from fna.errors import FnaError
from fna.nets.supernet import path_network
from fna.nets.weights import load_weights, put, take
from fna.progress import bar
from fna.rng import generator
from fna.searching.found import Candidate, Pool, choose
from fna.searching.kept import Kept
from fna.searching.measured import hand_cuts
from fna.searching.sampling import Step, sample_anchored
from fna.searching.scoring import Candidacy, Scorer, seed_of
from fna.training import distributed
from fna.training.batches import Stream
from fna.training.checkpoints import SCORES, Checkpoints
from fna.training.clock import Spent
from fna.training.engine import WeightStep, make_optimizer

if TYPE_CHECKING:
    from fna.searching.alphas import SearchLoop

STARTERS = 16  # candidates at most
LEAST = 10  # iterations at least that each is trained for at first
TRIES = 500  # networks drawn until one is new and within the budget


def halve(loop: SearchLoop, checkpoints: Checkpoints | None) -> tuple[Pool, tuple[str, ...], Spent]:
    """Train candidates, and more and more those that do better on held-out training images.

    Args:
        loop: a search whose super network is as the seed left it, and stays so.
        checkpoints: of the search; each candidate has a folder of its own below theirs.

    Returns:
        The pool, the seed in it; a warning where nothing was better than the seed; and the time, that before an
        interruption included. Only the last two have a score, the task's metric on held-out images: it decides.

    Raises:
        FnaError: there is nothing but the seed to train within the budget.
    """
    starters = list(islice(_starters(loop), _number(loop)))
    if len(starters) < 2:
        raise FnaError("search.chooser halving found no network but the seed that spends 90 to 100 % of search.budget")
    starters = starters[: 1 << (len(starters).bit_length() - 1)]
    rounds = len(starters).bit_length() - 1
    lengths = [max(1, loop.total_steps // rounds // (len(starters) >> r)) for r in range(rounds)]
    races = [_Race(loop, *one, i, sum(lengths), checkpoints) for i, one in enumerate(starters)]
    kept = Kept(checkpoints.path / SCORES if checkpoints else None, loop.compute, "results")
    results: dict[str, tuple[float, float | None]] = kept.tables["results"]  # loss and score after a round
    scorer, left, last = Scorer(loop), races, dict[int, Candidate]()
    with bar(sum(n * (len(starters) >> r) for r, n in enumerate(lengths)), "halving") as progress:
        for r, steps in enumerate(lengths):
            first = sum(lengths[:r])
            for race in left:
                key = f"{r} {race.number}"
                if key not in results:
                    results[key] = race.run(scorer, first, first + steps, r == rounds - 1)
                    kept.save()
                loss, score = results[key]
                last[race.number] = race.candidate(loss, score)
                progress.advance(steps, loss=loss)
            left = sorted(left, key=lambda race: (last[race.number].loss, race.number))[: len(left) // 2]
    if loop.compute.world.writes:
        for race in races:
            race.clear()
    pool = Pool(tuple(last[i] for i in range(len(starters))))
    best = choose(pool.candidates, None)
    nothing = best is not None and (best.path, best.form) == seed_of(loop)
    warning = "nothing that was trained within the budget beats the seed on held-out training images"
    return pool, (warning,) * nothing, kept.spent


def _number(loop: SearchLoop) -> int:
    """Return how many candidates the iterations are enough for: a power of 2."""
    number = 2
    while 2 * number <= min(STARTERS, loop.config.candidates):
        rounds = (2 * number).bit_length() - 1
        if loop.total_steps // rounds // (2 * number) < LEAST:
            break
        number *= 2
    return number


def _starters(loop: SearchLoop) -> Iterator[Candidacy]:
    """Yield the seed, the seed cut by hand to every form, and networks near the seed that spend the budget."""
    limit = loop.costs.seed if loop.limit is None else loop.limit
    seen = set()
    draw = generator(loop.compute.rng_seed, "starters")
    config = loop.config.model_copy(update={"window": (SPENT, 1.0)})

    def near() -> Iterator[Candidacy]:
        for _ in range(TRIES):
            form = loop.forms.draw(limit, draw)
            yield sample_anchored(Step(loop.arch, loop.forms.costs[form], limit, config), None, draw), form

    for source in ([seed_of(loop)], hand_cuts(loop, limit, loop.forms.within(limit)), near()):
        for path, form in source:
            fits = SPENT * limit <= loop.forms.costs[form].charged(path, limit) <= limit or (path, form) == seed_of(
                loop
            )
            if fits and (path, form) not in seen:
                seen.add((path, form))
                yield path, form


@dataclass
class _Race:
    """A candidate with weights of its own.

    Args:
        loop: the search.
        path: the candidate of every layer.
        form: head width, input scale and output stride.
        number: its name.
        total: iterations it will have been trained for if it is never dropped: those of its schedule.
        search: the checkpoints of the search, beside which its own lie.
    """

    loop: SearchLoop
    path: LayerPath
    form: Form
    number: int
    total: int
    search: Checkpoints | None

    @property
    def checkpoints(self) -> Checkpoints | None:
        """Where weights and momenta lie between rounds."""
        return self.search and Checkpoints(self.search.path / f"candidate_{self.number:02d}", 1)

    def run(self, scorer: Scorer, first: int, last: int, final: bool) -> tuple[float, float | None]:
        """Train from iteration `first` to `last`; return the held-out loss then, and in the final the metric."""
        loop, problem, config = self.loop, self.loop.problem.at(self.form), self.loop.config
        model = problem.build(loop.arch.path_arch(self.path))
        load_weights(model, self._start(scorer), "the start of a candidate")
        network = loop.compute.parallel(model, partial=False)
        optimizer = make_optimizer(model, config.optimizer)
        step = WeightStep(
            network, optimizer, config.optimizer, problem.loss, loop.compute, self.total, loop.steps_per_epoch
        )
        done, kept = (self.checkpoints.load_latest() if self.checkpoints and first else None) or (first, None)
        if kept:
            load_weights(model, kept["model"], "the checkpoint of a candidate")
            optimizer.load_state_dict(kept["optimizer"])
            step.scaler.load_state_dict(kept["scaler"])
        stream = Stream(
            *(loop.problem, loop.data, loop.parts[0], config.batch_size, "halving", loop.compute),
            lambda step: self.form.scale,
        )
        network.train()
        for at, (batch, images) in enumerate(stream.batches(done, last), done):
            for _ in step.readings.take(at, step(at, batch, images), now=at + 1 == last):
                pass  # nobody sees the rows, but what is not finite stops here
        if self.checkpoints and loop.compute.world.writes:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            self.checkpoints.save(last, {**state, "scaler": step.scaler.state_dict()})
        distributed.barrier()
        losses = scorer.held_losses(network.eval(), problem, self.form.scale)
        return math.fsum(losses) / len(losses), scorer.held_metric(model, problem) if final else None

    def _start(self, scorer: Scorer) -> dict[str, Tensor]:
        """Return the remapped seed's weights, with those of the head's first channels."""
        network = path_network(self.loop.model, self.path)
        head = scorer.head(self.form).state_dict()
        return {**put(take(network.state_dict(), "backbone"), "backbone"), **put(head, "head")}

    def candidate(self, loss: float, score: float | None) -> Candidate:
        """Return what is known of it."""
        return Candidate(self.path, self.loop.forms.costs[self.form].whole(self.path), loss, score, *self.form)

    def clear(self) -> None:
        """Remove what was kept between rounds."""
        if self.checkpoints:
            self.checkpoints.clear()
