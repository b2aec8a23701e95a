"""Narrower heads as slices of a wide one: the same as a head of that width with those weights, trained through it."""

from __future__ import annotations

import copy

import pytest
import torch
from test_scaling import ARCH, CROP, make_problem
from torch import Tensor, nn

from fna.arch.target import Form, Target
from fna.config import MODELS
from fna.nets.network import Model
from fna.nets.slim import SlimHead, slices
from fna.nets.weights import Network, take
from fna.stages.expand import build, remap_network
from fna.tasks.problem import Problem

HALF = Form(head_width=0.5)


def tensors(output: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [output["logits"], output["deltas"]]


def made(name: str) -> tuple[Problem, Model, Tensor]:
    problem = make_problem(name)
    model = problem.build(ARCH)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.head.parameters():  # predictors begin near 0, where nothing could be told apart
            parameter.normal_(0, 0.1, generator=generator)
    return problem, model, torch.randn(2, 3, *CROP[problem.config.task.name], generator=generator)


@pytest.mark.parametrize("name", MODELS)
def test_a_slim_head_is_the_narrow_head_with_the_first_channels(name: str) -> None:
    problem, model, images = made(name)
    wide = copy.deepcopy(model.head)
    narrow = problem.at(HALF).build_head(ARCH)
    narrow.load_state_dict(slices(wide.state_dict(), problem.meta_head(ARCH), narrow))
    slim = SlimHead(model.head, problem.at(HALF).meta_head(ARCH))
    for train in (True, False):
        expected = tensors(Model(model.backbone, narrow).train(train)(images))
        model.train(train)
        model.slim = slim
        for ours, theirs in zip(tensors(model(images)), expected, strict=True):
            torch.testing.assert_close(ours, theirs)
    assert set(model.state_dict()) == set(Model(model.backbone, wide).state_dict()), "the slim one adds no weights"
    for key, value in slices(model.head.state_dict(), wide, narrow).items():
        torch.testing.assert_close(value, narrow.state_dict()[key], msg=f"statistics of {key}")


@pytest.mark.parametrize("name", MODELS)
def test_training_a_slim_head_trains_the_slices_only(name: str) -> None:
    problem, model, images = made(name)
    model.slim = SlimHead(model.head, problem.at(HALF).meta_head(ARCH))
    sum(t.square().mean() for t in tensors(model(images))).backward()  # type: ignore[union-attr]
    gradients = {key: p.grad for key, p in model.head.named_parameters() if p.grad is not None}
    assert set(gradients) == {key for key, _ in model.head.named_parameters()}
    narrow = problem.at(HALF).meta_head(ARCH)
    inside = slices(gradients, problem.meta_head(ARCH), narrow)
    weights = [key for key, value in inside.items() if value.ndim > 1]
    assert all(inside[key].abs().sum() > 0 for key in weights)
    for key, value in gradients.items():
        assert value.abs().double().sum() == pytest.approx(float(inside[key].abs().double().sum())), key


@pytest.mark.parametrize("name", MODELS)
def test_a_narrower_target_starts_with_slices_of_the_trained_head(name: str) -> None:
    problem, model, images = made(name)
    network = Network(ARCH, model.state_dict())
    target = remap_network(network, Target(ARCH, 0.5), problem)
    model.slim = SlimHead(model.head, problem.at(HALF).meta_head(ARCH))
    with torch.no_grad():
        for ours, theirs in zip(tensors(build(target, problem)(images)), tensors(model.eval()(images)), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert not take(remap_network(network, Target(ARCH, 1.5), problem).state, "head"), "a wider one starts fresh"


def test_joined_inputs_keep_their_order() -> None:
    """The first channels of each map, not of all maps in a row."""
    wide, narrow = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 2, 1)
    wide.joined, narrow.joined = {"weight": (2, 2)}, {"weight": (1, 1)}  # type: ignore[assignment]
    with torch.no_grad():
        wide.weight.copy_(torch.arange(8.0).view(2, 4, 1, 1))
    cut = slices(wide.state_dict(), wide, narrow)["weight"]
    assert cut.flatten().tolist() == [0, 2, 4, 6]
