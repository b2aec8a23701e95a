"""In-place distillation: a lesson of the seed's path, which changes nothing itself, where another network runs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_resume import StoppedError, stopping
from tiny import Job, opened, search_tiny, tiny_config, write_images
from torch import Tensor

from fna.arch.target import Form
from fna.config import make_config
from fna.errors import FnaError
from fna.searching.alphas import SearchLoop
from fna.searching.distilling import teach
from fna.stages.expand import expand
from fna.training.sinks import read_log

ANCHORED = (
    *("search.sampler=anchored", "search.chooser=measured", "search.epochs=2", "search.held_out=0.34"),
    *("space.input_scales=[1, 1.25]", "space.head_channels=[0.5, 1]", "search.candidates=4", "search.recalibrate=1"),
    "space.output_strides=[8, 16]",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def job(images: Path) -> Iterator[Job]:
    with opened(tiny_config(images, *ANCHORED, "search.distill=0.5")) as ready:
        yield ready


def started(job: Job) -> SearchLoop:
    problem, arch = job.problem, expand(job.seed, job.problem)
    loop = SearchLoop(arch, problem, job.data.train, job.compute, problem.costs(arch.arch), None)
    loop.start(0)
    return loop


def weights(loop: SearchLoop) -> dict[str, Tensor]:
    return copy.deepcopy(loop.model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_only_steps_of_another_network_than_the_seeds_have_a_lesson(job: Job, images: Path) -> None:
    taught = started(job)
    with opened(tiny_config(images, *ANCHORED)) as plain_job:
        plain = started(plain_job)
    equal = True
    for step in range(taught.total_steps):
        form, drawn_for = taught.drawn_for(step)
        seeds = drawn_for.anchor and form == Form(scale=form.scale)
        row, plain_row = taught.step(step), plain.step(step)
        assert (row["distillation"] is None) == seeds
        assert "distillation" not in plain_row
        if equal:  # until the first lesson
            torch.testing.assert_close(row["task_loss"], plain_row["task_loss"])  # the truth's part alone
        equal &= seeds
        assert same(weights(taught), weights(plain)) == equal
    assert not equal


def test_the_teacher_is_the_seed_at_the_scale_of_the_step_and_stays_as_it_is(job: Job) -> None:
    loop = started(job)
    path, before = loop.arch.seed_path(), weights(loop)
    batch, small = next(loop.weight_batches)
    assert loop._lesson(path, Form(), small) is None
    assert loop._lesson(path, Form(scale=1.25), small) is None
    lesson = loop._lesson(path, Form(0.5), small)
    assert lesson is not None, "a narrower head may learn from the wide one"
    assert torch.equal(lesson.teacher, teach(loop.model, path, small, loop.compute))
    assert not lesson.teacher.requires_grad
    assert same(weights(loop), before)
    assert all(parameter.grad is None for parameter in loop.model.parameters())
    with torch.no_grad():
        loss_sum, number = lesson(lesson.teacher, batch)
        assert lesson.distance == 0
        assert (loss_sum, number) == loop.problem.loss(lesson.teacher, batch)
        lesson(lesson.teacher + torch.randn_like(lesson.teacher), batch)
    assert lesson.distance > 0


def test_a_stopped_search_goes_on_and_ends_the_same(job: Job, tmp_path: Path) -> None:
    whole = search_tiny(job, tmp_path / "whole")
    with pytest.raises(StoppedError):
        search_tiny(stopping(job, 5), tmp_path / "stopped")
    again = search_tiny(job, tmp_path / "stopped")
    assert again.evidence == whole.evidence
    assert same(dict(again.network.state), dict(whole.network.state))
    logs = [read_log(tmp_path / name / "search.csv") for name in ("whole", "stopped")]
    assert logs[0] == logs[1]
    assert {row["distillation"] == "" for row in logs[0]} == {True, False}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampler": "uniform"}, "with search.sampler uniform the seed's path is trained no more than others"),
        ({"chooser": "halving"}, "search.chooser halving trains no super network"),
        ({"distill": -0.5}, "search.distill"),
    ],
)
def test_a_search_without_a_teacher_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(FnaError, match=said):
        make_config({"search": {"distill": 0.5, **settings}})
