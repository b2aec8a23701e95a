"""Successive halving: real trainings, the better half goes on, an interruption changes nothing, the metric decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Job, job_of_module, opened, search_tiny, tiny_config, write_images

from fna.errors import FnaError
from fna.searching.found import Found, Pool
from fna.searching.scoring import Scorer
from fna.searching.trials import Trial
from fna.stages.expand import expand

SETTINGS = (
    *("search.chooser=halving", "space.input_scales=[1, 1.25]", "space.head_channels=[0.5, 1]"),
    *("space.expansions=[3, 6]", "search.epochs=40", "search.held_out=0.34", "search.candidates=4"),
    *("search.batch_size=4", "search.budget=1.0"),
)


job = job_of_module(*SETTINGS)


@pytest.fixture(scope="module")
def found(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return search_tiny(job, tmp_path_factory.mktemp("found"))


def test_two_of_four_go_on_and_the_metric_decides_between_them(job: Job, found: Found) -> None:
    assert isinstance(found.evidence, Pool)
    pool = found.evidence.candidates
    limit = job.problem.cost(job.seed.arch).madds
    assert len(pool) == len({(c.path, c.form) for c in pool}) == 4
    assert (pool[0].path, pool[0].scale) == (found.network.arch.seed_path(), 1.0)
    assert all(c.cost <= limit for c in pool)
    assert sum(c.score is not None for c in pool) == 2


def test_the_super_network_is_left_as_the_seed_made_it(job: Job, found: Found) -> None:
    expanded = expand(job.seed, job.problem)
    for name, value in expanded.state.items():
        assert torch.equal(value, found.network.state[name]), name


def test_an_interrupted_halving_goes_on_and_finds_the_same(
    job: Job, found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, runs = Trial.run, [0]

    def run(self: Trial, scorer: Scorer, *given: Any) -> tuple[list[float], float | None]:
        if runs[0] == 5:  # the first of the second round
            raise KeyboardInterrupt
        runs[0] += 1
        return own(self, scorer, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "run", run)
        with pytest.raises(KeyboardInterrupt):
            search_tiny(job, tmp_path)
    assert list((tmp_path / "search").glob("candidate_*/step-*.pt"))
    more = tiny_config(write_images(tmp_path / "more", train=16), *SETTINGS)
    with opened(more) as other, pytest.raises(FnaError, match=r"'search' began with 12 records .*, now there are 16"):
        search_tiny(other, tmp_path)
    again = search_tiny(job, tmp_path)
    assert again.evidence == found.evidence
    assert not list((tmp_path / "search").glob("candidate_*/step-*")), "what lay between rounds is removed"


def test_settings_that_halving_cannot_follow_are_refused(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    for settings, said in (
        (["search.smaller_budgets=[0.9x]"], "the chooser measured"),
        (
            ["space.input_scales=[1]", "space.head_channels=[1]", "space.expansions=[3]", "space.kernels=[3]"],
            "but the seed",
        ),
    ):
        with opened(tiny_config(images, *SETTINGS, *settings)) as job, pytest.raises(FnaError, match=said):
            search_tiny(job, tmp_path / "run")
