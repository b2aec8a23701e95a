"""Trials: finalists of a measured choice are trained by themselves, on what is not held out; the metric decides."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Job, job_of_module, search_tiny

from fna.arch.target import Form
from fna.config.sections import SearchConfig
from fna.searching.alphas import SearchLoop
from fna.searching.found import Pool
from fna.searching.scoring import Candidacy, Scorer
from fna.searching.trials import Trial, try_out
from fna.stages.expand import expand
from fna.training.batches import Stream

SETTINGS = (
    *("search.chooser=measured", "search.sampler=anchored", "search.epochs=10", "search.held_out=0.34"),
    *("space.input_scales=[1, 1.25]", "space.head_channels=[0.5, 1]", "space.expansions=[3, 6]"),
    *("search.candidates=12", "search.recalibrate=2", "search.budget=1.0", "search.trial=0.5"),
)


job = job_of_module(*SETTINGS)


@pytest.fixture
def loop(job: Job) -> SearchLoop:
    space = expand(job.seed, job.problem)
    return SearchLoop(space, job.problem, job.data.train, job.compute, job.problem.costs(space.arch), None)


def networks(loop: SearchLoop) -> list[Candidacy]:
    """Return the seed, and a larger input with a narrower head."""
    return [(loop.arch.seed_path(), Form()), (loop.arch.seed_path(), Form(0.5, 1.25))]


def test_a_trial_trains_a_copy_and_only_on_what_is_not_held_out(
    loop: SearchLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[Stream] = []
    own = Stream.batches

    def batches(self: Stream, first: int, last: int) -> Any:
        streams.append(self)
        assert last - first == loop.total_steps // 2
        return own(self, first, last)

    monkeypatch.setattr(Stream, "batches", batches)
    weights = {name: p.detach().clone() for name, p in loop.model.named_parameters()}
    scorer = Scorer(loop)
    scorer.score(networks(loop))
    try_out(scorer, networks(loop))
    assert all(torch.equal(p, weights[name]) for name, p in loop.model.named_parameters())
    assert [set(stream.indices) for stream in streams] == [set(loop.parts[0])] * 2
    assert not set(loop.parts[0]) & set(loop.parts[1])
    for one in networks(loop):
        shared, trained = (math.fsum(losses) for losses in (scorer.losses(*one), scorer.last_losses(*one)))
        assert trained < shared, "it learned something"
        assert 0 <= scorer.metric(*one) <= 1
    try_out(scorer, networks(loop))
    assert len(streams) == 2, "once is enough"


@pytest.mark.parametrize(("share", "total", "steps"), [(0.1, 880, 88), (0.1, 3, 1), (0.0, 880, 0)])
def test_a_short_search_has_trials_too(share: float, total: int, steps: int) -> None:
    assert SearchConfig(trial=share).trial_steps(total) == steps


def test_without_trials_the_metric_is_that_with_shared_weights(loop: SearchLoop) -> None:
    loop.config = loop.config.model_copy(update={"trial": 0.0})
    scorer, other = Scorer(loop), Scorer(loop)
    for one in (scorer, other):
        one.score(networks(loop))
    try_out(scorer, networks(loop))
    other.measure(networks(loop))
    for network in networks(loop):
        assert scorer.metric(*network) == other.metric(*network)
        assert scorer.last_losses(*network) == scorer.losses(*network)


def test_a_search_interrupted_in_a_trial_goes_on_and_finds_the_same(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, own, tried = search_tiny(job, tmp_path / "whole"), Trial.run, list[Candidacy]()

    def run(self: Trial, *given: Any) -> Any:
        if len(tried) == 2:
            raise KeyboardInterrupt
        tried.append(self.one)
        return own(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "run", run)
        with pytest.raises(KeyboardInterrupt):
            search_tiny(job, tmp_path / "run")
    first = list(tried)
    tried.clear()

    def note(self: Trial, *given: Any) -> Any:
        tried.append(self.one)
        return own(self, *given)

    monkeypatch.setattr(Trial, "run", note)
    again = search_tiny(job, tmp_path / "run")
    assert again.evidence == whole.evidence
    assert isinstance(again.evidence, Pool)
    scored = {(c.path, c.form) for c in again.evidence.candidates if c.score is not None}
    assert set(first) | set(tried) == scored
    assert not set(first) & set(tried)
