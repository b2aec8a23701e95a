"""Depths of RetinaNet's towers as a choice: shallower towers are the first convolutions of the deepest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny_deeper
import torch
from test_scaling import ARCH, make_problem
from tiny import Job, counted_pool, search_tiny
from tiny_detection import detection_config, write_squares

import fna
from fna.arch.target import Form, Target
from fna.config import MODELS, make_config
from fna.errors import FnaError
from fna.nets.network import Model
from fna.nets.slim import SlimHead, slices
from fna.nets.weights import Network
from fna.rng import generator
from fna.searching.forms import forms_of
from fna.searching.found import Found, Pool
from fna.stages.expand import remap_network

SEARCH = (
    *("task.model=retinanet", "search.sampler=anchored", "search.chooser=measured", "search.held_out=0.34"),
    *("space.tower_depths=[1, 4]", "space.input_scales=[1]", "space.head_channels=[0.5, 1]"),
    *("search.candidates=6", "search.recalibrate=1"),
)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    squares = write_squares(tmp_path_factory.mktemp("data") / "squares")
    with tiny_deeper.opened(detection_config(squares, *SEARCH)) as ready:
        yield ready


@pytest.fixture(scope="module")
def found(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return search_tiny(job, tmp_path_factory.mktemp("found"))


def test_a_shallow_head_is_a_slice_of_the_deepest() -> None:
    problem = make_problem("retinanet", task={"model": "retinanet", "channels": 8})
    form = Form(head_width=0.5, tower_depth=2)
    model, shallow = problem.build(ARCH).eval(), problem.at(form).build(ARCH).eval()
    assert [len(tower.conv) for tower in (shallow.head.classification, shallow.head.regression)] == [2, 2]
    shallow.backbone.load_state_dict(model.backbone.state_dict())
    shallow.head.load_state_dict(slices(model.head.state_dict(), model.head, shallow.head))
    slim = Model(model.backbone, model.head).eval()
    slim.slim = SlimHead(model.head, problem.at(form).meta_head(ARCH))
    images = torch.randn(1, 3, 64, 96, generator=generator(0, "images"))
    with torch.no_grad():
        ours, theirs, deep = slim(images), shallow(images), model(images)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not torch.equal(deep["logits"], theirs["logits"])


def test_a_shallow_head_costs_what_it_does_with_that_setting() -> None:
    asked, given = make_problem("retinanet"), make_problem("retinanet", task={"model": "retinanet", "tower_depth": 1})
    assert asked.at(Target(ARCH, tower_depth=1)).cost(ARCH) == given.cost(ARCH)
    assert given.cost(ARCH).madds < asked.cost(ARCH).madds
    assert given.cost(ARCH).params < asked.cost(ARCH).params
    assert asked.at(Form(tower_depth=4)) is asked


def test_depths_are_forms_and_the_settings_own_is_none_of_them() -> None:
    space = {"tower_depths": [1, 4], "input_scales": [1], "head_channels": [1]}
    config = make_config({"task": {"model": "retinanet"}, "space": space})
    assert forms_of(config) == (Form(tower_depth=1), Form())
    assert all(form.tower_depth is None for form in forms_of(make_config({"task": {"model": "retinanet"}})))


def test_candidates_of_every_depth_are_counted_and_trained(job: Job, found: Found) -> None:
    assert {c.tower_depth for c in counted_pool(job, found)} == {None, 1}


def test_a_shallow_target_has_the_super_networks_weights(job: Job, found: Found) -> None:
    assert isinstance(found.evidence, Pool)
    best = next(c for c in found.evidence.candidates if c.tower_depth == 1)
    target = fna.derive(Found(found.network, Pool((best,)), chooser="measured"), job.problem)
    assert (target.form, fna.count(target, job.problem).madds) == (best.form, best.cost)
    assert Target.from_json(Target(target.arch, *target.form).to_json()).form == best.form
    deepest = remap_network(found.network, Target(target.arch, best.head_width), job.problem)
    assert len(deepest.state) == len(target.state) + 2 * 3 * 2  # weight and bias of three convolutions of two towers
    for name, value in target.state.items():
        assert torch.equal(value, deepest.state[name])


def test_a_deeper_head_than_the_trained_one_starts_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    problem = make_problem("retinanet", task={"model": "retinanet", "channels": 8})
    shallow = Target(ARCH, tower_depth=1)
    network = Network(ARCH, problem.at(shallow).build(ARCH).state_dict(), *shallow.form)
    deep = remap_network(network, Target(ARCH), problem)
    assert not any(name.startswith("head.") for name in deep.state)
    assert "wider or deeper than the trained one: it starts fresh" in capsys.readouterr().err


@pytest.mark.parametrize("model", [model for model in MODELS if model != "retinanet"])
def test_heads_without_towers_refuse_a_depth(model: str) -> None:
    for section, key, value in (("space", "tower_depths", [2]), ("adapt", "tower_depth", 2)):
        with pytest.raises(FnaError, match=rf"{section}\.{key} is for retinanet: the head of {model} has no towers"):
            make_config({"task": {"model": model}, section: {key: value}})


def test_deeper_towers_than_the_super_networks_are_refused() -> None:
    with pytest.raises(FnaError, match=r"space\.tower_depths has 4, but task\.tower_depth is 2"):
        make_config({"task": {"model": "retinanet", "tower_depth": 2}, "space": {"tower_depths": [1, 4]}})
    with pytest.raises(FnaError, match=r"task\.tower_depth"):
        make_config({"task": {"model": "retinanet", "tower_depth": 5}})
