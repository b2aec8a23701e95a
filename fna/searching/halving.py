"""Successive halving: candidates are trained for real, each with weights of its own, and the worse half is dropped.

No weights are shared, so nothing depends on how well a super network ranks: an honest yardstick, and the choice where
data are so few that a short training costs little. All start from the remapped seed. The iterations of the search are
spent in equal parts on all candidates, on the better half of them, and so on down to two.

Source: successive halving (arXiv:1502.07943).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from torch import Tensor

from fna.arch.cutting import SPENT
from fna.errors import FnaError
from fna.nets.supernet import path_network
from fna.nets.weights import put, take
from fna.progress import bar
from fna.rng import generator
from fna.searching.found import Candidate, Pool, choose_finalist
from fna.searching.kept import Kept
from fna.searching.measured import hand_cuts
from fna.searching.sampling import Step, sample_anchored
from fna.searching.scoring import Candidacy, Scorer, seed_of
from fna.searching.trials import Trial
from fna.training.checkpoints import SCORES, Checkpoints
from fna.training.clock import Spent
from fna.training.engine import PLAN, PROCESSES, check_as_begun

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
        FnaError: there is nothing but the seed to train within the budget; or what was interrupted had other data, or
            another number of processes.
    """
    starters = list(islice(_starters(loop), _number(loop)))
    if len(starters) < 2:
        raise FnaError("search.chooser halving found no network but the seed that spends 90 to 100 % of search.budget")
    starters = starters[: 1 << (len(starters).bit_length() - 1)]
    rounds = len(starters).bit_length() - 1
    lengths = [max(1, loop.total_steps // rounds // (len(starters) >> r)) for r in range(rounds)]
    files = [checkpoints and Checkpoints(checkpoints.path / f"candidate_{i:02d}", 1) for i in range(len(starters))]
    trials = [Trial(loop, one, sum(lengths), "halving", own) for one, own in zip(starters, files, strict=True)]
    kept = Kept(checkpoints.path / SCORES if checkpoints else None, loop.compute, "began", "results")
    _check_as_begun(loop, kept.tables["began"])
    results: dict[str, tuple[float, float | None]] = kept.tables["results"]  # loss and score after a round
    scorer, left, last = Scorer(loop), list(range(len(trials))), dict[int, Candidate]()
    with bar(sum(n * (len(starters) >> r) for r, n in enumerate(lengths)), "halving") as progress:
        for r, steps in enumerate(lengths):
            first = sum(lengths[:r])
            for i in left:
                if f"{r} {i}" not in results:
                    losses, score = trials[i].run(scorer, _start(scorer, starters[i]), first, first + steps)
                    results[f"{r} {i}"] = math.fsum(losses) / len(losses), score
                    kept.save()
                (path, form), (loss, score) = starters[i], results[f"{r} {i}"]
                last[i] = Candidate(path, loop.forms.costs[form].whole(path), loss, score, *form)
                progress.advance(steps, loss=loss)
            left = sorted(left, key=lambda i: (last[i].loss, i))[: len(left) // 2]
    for own in files:
        if own and loop.compute.world.writes:
            own.clear()
    pool = Pool(tuple(last[i] for i in range(len(starters))))
    best = choose_finalist(pool.candidates, None)
    nothing = best is not None and (best.path, best.form) == seed_of(loop)
    warning = "nothing that was trained within the budget beats the seed on held-out training images"
    return pool, (warning,) * nothing, kept.spent


def _check_as_begun(loop: SearchLoop, began: dict[str, int]) -> None:
    """Refuse to go on with other data or another number of processes; note those of the beginning."""
    now = {**{key: int(getattr(loop, key)) for key in PLAN}, PROCESSES: loop.compute.world.size}
    check_as_begun("search", began or now, now)
    began.update(now)


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


def _start(scorer: Scorer, one: Candidacy) -> dict[str, Tensor]:
    """Return the remapped seed's weights, with those of the head's first channels."""
    path, form = one
    backbone, head = path_network(scorer.loop.model, path).state_dict(), scorer.head(form).state_dict()
    return {**put(take(backbone, "backbone"), "backbone"), **put(head, "head")}
