"""Tied candidates: slices of the largest, in its memory; names, shapes, values and plain paths stay as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from test_supernet import tiny_seed, tiny_space

from fna.arch import SuperArch
from fna.arch.spaces import make_space
from fna.nets.network import Backbone
from fna.nets.supernet import MixedOp, SuperBackbone
from fna.nets.tying import middle, tie
from fna.nets.weights import load_weights
from fna.remapping import Strategy, remap
from fna.seeds import load_seed


def remapped(space: SuperArch, strategy: Strategy | None = None) -> SuperBackbone:
    """A super network as the seed leaves it, in eval mode."""
    model = SuperBackbone(space).eval()
    load_weights(
        model, remap(space.seed, Backbone(space.seed).state_dict(), space, strategy or Strategy(), 0).state, ""
    )
    return model


def test_all_candidates_that_remapping_made_are_slices_of_the_largest() -> None:
    model = remapped(tiny_space())
    before = copy.deepcopy(model.state_dict())
    layers = [op for op in model.modules() if isinstance(op, MixedOp) and len(op.labels) > 1]
    blocks = sum(sum(label != "skip" for label in op.labels) - 1 for op in layers)
    assert tie(model) == blocks > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for op in layers:
        largest = op.get_submodule("k5e3")
        for label in op.labels:
            if label == "skip":
                continue
            for name, weight in op.get_submodule(label).named_parameters():
                if weight.ndim == 4:
                    view = middle(largest.get_parameter(name).data, weight)
                    assert weight.data_ptr() == view.data_ptr()
                    assert weight.stride() == view.stride()


def test_a_step_of_one_candidate_trains_the_others_but_not_their_norms() -> None:
    model = remapped(tiny_space()).train()
    tie(model)
    op = next(op for op in model.modules() if isinstance(op, MixedOp) and "k3e2" in op.labels)
    small, large = op.get_submodule("k3e2"), op.get_submodule("k5e3")
    before = copy.deepcopy(large.state_dict())
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    channels = small.get_parameter("expand.weight").shape[1]
    small(torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    optimizer.step()
    for name, value in large.state_dict().items():
        assert torch.equal(value, before[name]) == ("norm" in name), name
        if value.ndim == 4:
            own = small.state_dict()[name]
            assert torch.equal(middle(value, own), own)


def test_a_checkpoint_goes_back_into_tied_weights() -> None:
    model, other = remapped(tiny_space()), remapped(tiny_space())
    for one in (model, other):
        tie(one)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    load_weights(other, state, "the checkpoint")
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("strategy", [Strategy(width="l1"), Strategy(kernel="dilate")], ids=["l1", "dilate"])
def test_what_other_rules_made_keeps_weights_of_its_own(strategy: Strategy) -> None:
    space = make_space(tiny_seed(), kernels=(3, 5), expansions=(2, 3), layers=(2, 2, 1, 1))
    model = remapped(space, strategy)
    before = copy.deepcopy(model.state_dict())
    full = tie(remapped(space))
    assert tie(model) < full
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_groups_of_a_resnet_are_no_slices() -> None:
    arch = load_seed("resnet18", weights=None).arch
    model = remapped(make_space(arch, cells=("k3g1", "k5g2")))
    assert tie(model) == 0
