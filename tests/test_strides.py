"""Output strides as a choice: one super network's weights serve all, and a target is a network of its own stride."""

from __future__ import annotations

import pytest
import torch
from test_scaling import ARCH, make_problem
from test_supernet import build, tiny_space
from tiny import Job, counted_pool, job_of_module, search_tiny
from torch import Tensor

import fna
from fna.arch import Arch, Block, Stem, with_output_stride
from fna.arch.spaces import make_space
from fna.arch.target import Form, Target
from fna.config import MODELS, TASKS, make_config
from fna.errors import FnaError
from fna.nets.network import Backbone, Model
from fna.nets.slim import SlimHead
from fna.nets.supernet import SuperBackbone, path_backbone, restrided
from fna.rng import generator
from fna.searching.forms import forms_of
from fna.searching.found import Found, Pool
from fna.searching.sampling import draw_path
from fna.stages.expand import remap_network

SEARCH = (
    *("search.sampler=anchored", "search.chooser=measured", "search.epochs=2", "search.held_out=0.34"),
    *(
        "space.output_strides=[8, 16]",
        "task.output_stride=16",
        "space.input_scales=[1]",
        "space.head_channels=[0.5, 1]",
    ),
    *("search.candidates=12", "search.recalibrate=1", "search.distill=0.5", "space.layers=[2, 2, 1, 1]"),
)
TABLE = ((8, 8, 1, 1, 1), (8, 16, 2, 3, 2), (16, 24, 2, 3, 2), (24, 32, 2, 3, 1), (32, 32, 2, 3, 1))  # to stride 32


job = job_of_module(*SEARCH, table=TABLE)


@pytest.fixture(scope="module")
def found(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return search_tiny(job, tmp_path_factory.mktemp("found"))


# --- one super network, every stride ----------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(("own", "wanted"), [(16, 8), (8, 32)])
def test_a_path_at_another_stride_is_the_network_of_that_stride(own: int, wanted: int, padding: str) -> None:
    undilated = tiny_space(padding)
    model = build(with_output_stride(undilated, own))
    other = restrided(model, with_output_stride(undilated, wanted))
    images = torch.randn(2, 3, 64, 96, generator=generator(0, "images"))
    path = draw_path(undilated, None, generator(0, "path"))
    plain = Backbone(with_output_stride(undilated.path_arch(path), wanted))
    plain.load_state_dict(path_backbone(model, path).state_dict())
    for train in (True, False):
        model.train(train)
        for ours, theirs in zip(other(images, path), plain.train(train)(images), strict=True):
            assert torch.equal(ours, theirs)
    for name, value in path_backbone(model, path).state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), "statistics are shared"
    assert set(map(id, other.parameters())) == set(map(id, model.parameters()))


def test_weights_that_a_stride_makes_needless_are_refused() -> None:
    """A ResNet's block that keeps its channels projects its input for the sake of its stride alone."""
    strided = [(Block("basic", 8, 8, stride=2),)] * 2
    space = make_space(Arch(Stem(8, max_pool=True), ((Block("basic", 8, 8),), *strided)), cells=("k3g1", "k5g2"))
    with pytest.raises(FnaError, match=r"other weights at output stride 8; leave it out of space\.output_strides"):
        restrided(SuperBackbone(space), with_output_stride(space, 8))


@pytest.mark.parametrize("name", TASKS["segmentation"])
def test_a_head_at_another_stride_has_its_rates_and_the_same_weights(name: str) -> None:
    problem = make_problem(name, task={"model": name, "channels": 8, "rates": [2, 4]})
    finer = problem.at(Form(output_stride=8))
    assert finer.config.task.rates == (4, 8)
    model = problem.build(ARCH).eval()
    fine = finer.build(ARCH).eval()
    fine.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 64, 96, generator=generator(0, "images"))
    slim = SlimHead(model.head, finer.meta_head(ARCH))
    with torch.no_grad():
        shown = Model(fine.backbone, model.head).eval()
        shown.slim = slim
        assert torch.equal(shown(images), fine(images))
        assert not torch.equal(model(images), fine(images))


def test_a_network_at_a_stride_costs_what_it_does_with_that_setting() -> None:
    asked = make_problem("deeplabv3")
    given = make_problem("deeplabv3", task={"model": "deeplabv3", "output_stride": 8})
    assert asked.at(Target(ARCH, output_stride=8)).cost(ARCH) == given.cost(ARCH)
    assert given.cost(ARCH).params == asked.cost(ARCH).params
    assert given.cost(ARCH).madds > asked.cost(ARCH).madds
    assert asked.at(Form(output_stride=16)) is asked
    assert asked.at(Form(output_stride=8)).config.task == given.config.task


# --- the search -------------------------------------------------------------------------------------------------------


def test_strides_are_forms_and_the_settings_own_is_none_of_them() -> None:
    config = make_config({"space": {"output_strides": [8, 16, 8], "input_scales": [1, 2], "head_channels": [1]}})
    assert forms_of(config) == (Form(1, 1, 8), Form(1, 1), Form(1, 2, 8), Form(1, 2))
    assert all(form.output_stride is None for form in forms_of(make_config({})))


def test_candidates_of_every_stride_are_counted_and_trained(job: Job, found: Found) -> None:
    assert {c.output_stride for c in counted_pool(job, found)} == {None, 8}
    (old,) = Found.from_json(
        {**found.to_json(), "candidates": [{"path": [0], "cost": 1, "loss": 0.5, "head_width": 1.0, "scale": 1.0}]},
        found.network,
    ).evidence.candidates  # type: ignore[union-attr]
    assert old.form == Form(), "of a version that did not search strides"


def test_a_target_of_another_stride_has_the_super_networks_weights(job: Job, found: Found) -> None:
    assert isinstance(found.evidence, Pool)
    best = next(c for c in found.evidence.candidates if c.output_stride == 8)
    target = fna.derive(Found(found.network, Pool((best,)), chooser="measured"), job.problem)
    assert target.form == best.form
    assert fna.count(target, job.problem).madds == best.cost
    assert Target.from_json(Target(target.arch, *target.form).to_json()).form == best.form
    plain = remap_network(found.network, Target(target.arch, best.head_width), job.problem)
    assert same(dict(target.state), dict(plain.state))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# --- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [model for model in MODELS if model not in TASKS["segmentation"]])
def test_tasks_of_fixed_strides_refuse_another(model: str) -> None:
    for section, value in (("space", {"output_strides": [16]}), ("adapt", {"output_stride": 16})):
        with pytest.raises(FnaError, match=f"is for segmentation: {model} reads maps of fixed strides; leave it out"):
            make_config({"task": {"model": model}, section: value})


@pytest.mark.parametrize("stride", [0, 4, "8", 12.0])
def test_impossible_strides_are_refused(stride: object) -> None:
    with pytest.raises(FnaError, match=r"space\.output_strides"):
        make_config({"space": {"output_strides": [stride]}})
    with pytest.raises(FnaError, match=r"a target's output stride is .*; expected 8, 16, 32 or null"):
        Target.from_json({**Target(ARCH).to_json(), "output_stride": stride})
