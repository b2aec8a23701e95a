"""What holds for every estimator of the alphas' gradient: a choice the super network can run, that moves the alphas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fna.arch import Arch, Block, Stem, SuperArch
from fna.arch.spaces import make_space
from fna.nets.supernet import Mixture, SuperBackbone, frozen_weights
from fna.rng import generator, seeded
from fna.searching.estimators import ESTIMATORS


def space() -> SuperArch:
    first, second = Block("mbconv", 8, 8), Block("mbconv", 8, 12, stride=2, expansion=3)
    seed = Arch(Stem(8), ((first,), (second, Block("mbconv", 12, 12, expansion=3))))
    return make_space(seed, kernels=(3, 5), expansions=(2, 3), layers=(3,))


def draw_alphas(arch: SuperArch) -> list[Tensor]:
    draw = generator(0, "alphas")
    return [torch.randn(len(candidates), generator=draw).requires_grad_() for _, candidates in arch.layers()]


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("draw", range(5))
def test_its_choice_is_valid(name: str, draw: int) -> None:
    arch = space()
    alphas = draw_alphas(arch)
    choice = ESTIMATORS[name](alphas, generator(draw, "mixture"))
    assert len(choice) == len(alphas)
    for (_, candidates), entry in zip(arch.layers(), choice, strict=True):
        if len(candidates) == 1:
            assert entry == 0
            continue
        assert isinstance(entry, Mixture)
        assert len(set(entry.indices)) == len(entry.indices) == len(entry.weights) > 0
        assert set(entry.indices) <= set(range(len(candidates)))
        assert entry.weights.isfinite().all()
        torch.testing.assert_close(entry.weights.sum().detach(), torch.tensor(1.0))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_it_is_a_function_of_its_generator(name: str) -> None:
    alphas = draw_alphas(space())
    once, again = (ESTIMATORS[name](alphas, generator(3, "mixture")) for _ in range(2))
    for a, b in zip(once, again, strict=True):
        if isinstance(a, Mixture) and isinstance(b, Mixture):
            assert a.indices == b.indices
            assert torch.equal(a.weights, b.weights)
        else:
            assert a == b


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_searchable_layer_gets_a_gradient(name: str) -> None:
    arch = space()
    alphas = draw_alphas(arch)
    with seeded(0, "test"):
        network = SuperBackbone(arch).train()
    images = torch.randn(2, 3, 32, 32, generator=generator(0, "images"))
    with frozen_weights(network):
        network(images, ESTIMATORS[name](alphas, generator(0, "mixture")))[-1].square().mean().backward()
    for i in arch.searchable:
        gradient = alphas[i].grad
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.any()
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_it_says_what_it_does(name: str) -> None:
    assert (ESTIMATORS[name].__doc__ or "").partition("\n")[0].endswith(".")
