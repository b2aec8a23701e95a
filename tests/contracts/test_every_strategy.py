"""What holds for every rule of remapping: the laws of its level, on one small network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fna.arch import Arch, Block, Stem, with_blocks
from fna.config import make_config
from fna.nets.network import Backbone
from fna.remapping import Strategy, remap
from fna.remapping.rules import DEPTH, GROWTH, KERNEL, WIDTH
from fna.rng import generator, seeded

TABLES: dict[str, Mapping[str, Any]] = {"depth": DEPTH, "width": WIDTH, "kernel": KERNEL, "growth": GROWTH}
ENTRIES = [(level, name) for level, table in TABLES.items() for name in table]


def block(in_channels: int, out_channels: int, **changes: Any) -> Block:
    return Block("mbconv", in_channels, out_channels, **{"expansion": 3, **changes})


SMALL = Arch(
    Stem(8),
    (
        (block(8, 8, expansion=1),),
        (block(8, 12, stride=2, kernel=5), Block("skip", 12, 12), block(12, 12)),
        (block(12, 16, stride=2), block(16, 16, kernel=7)),
    ),
)


def weights(arch: Arch) -> dict[str, Tensor]:
    """Fresh weights whose batch norms are not all alike."""
    with seeded(0, "test"):
        network = Backbone(arch).double()
        for name, tensor in network.state_dict().items():
            if "norm" in name and tensor.dim():
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return network.state_dict()


@torch.no_grad()
def features(arch: Arch, state: dict[str, Tensor]) -> Tensor:
    network = Backbone(arch).double().eval()
    network.load_state_dict(state)
    last: Tensor = network(torch.randn(2, 3, 32, 48, generator=generator(0, "images")).double())[-1]
    return last


@pytest.mark.parametrize(("level", "name"), ENTRIES)
def test_it_says_what_it_does(level: str, name: str) -> None:
    doc = TABLES[level][name].__doc__
    assert doc, "the first line is what `fna list strategies` shows"
    assert doc.partition("\n")[0].endswith(".")


@pytest.mark.parametrize(("level", "name"), ENTRIES)
def test_a_recipe_can_name_it(level: str, name: str) -> None:
    config = make_config({"data": {"root": "."}, "remap": {level: name}}).remap
    assert Strategy(**config.model_dump()) == Strategy(**{level: name})


@pytest.mark.parametrize(("level", "name"), ENTRIES)
def test_nothing_to_do_changes_nothing(level: str, name: str) -> None:
    state = weights(SMALL)
    copy = remap(SMALL, state, SMALL, Strategy(**{level: name})).state
    assert copy.keys() == state.keys()
    assert all(torch.equal(copy[key], state[key]) for key in state)


@pytest.mark.parametrize(("level", "name"), ENTRIES)
def test_every_tensor_is_filled(level: str, name: str) -> None:
    """To another depth, width and kernel at once, up and down."""
    stages = [
        [replace(b, kernel=8 - b.kernel if b.kernel != 5 else 3, expansion=4) if b.expansion > 1 else b for b in stage]
        for stage in SMALL.stages
    ]
    other = with_blocks(SMALL, [*stages[:2], [*stages[2], block(16, 16, expansion=2)]])
    result = remap(SMALL, weights(SMALL), other, Strategy(**{level: name}))
    assert {key: value.shape for key, value in result.state.items()} == {
        key: value.shape for key, value in Backbone(other).state_dict().items()
    }
    assert all(value.isfinite().all() for value in result.state.values())
    assert [row.tensor for row in result.report] == list(result.state)


@pytest.mark.parametrize("name", DEPTH)
def test_depth_keeps_layers_in_their_place(name: str) -> None:
    for stage in SMALL.stages:
        for layer in range(len(stage) + 3):
            chosen = DEPTH[name](stage, layer, block(16, 16))
            if layer < len(stage) and stage[layer].kind != "skip":
                assert chosen == layer
            if chosen is None:
                continue  # the layer is new
            assert -1 <= chosen < len(stage)
            if chosen >= 0:
                assert stage[chosen].kind != "skip"


@pytest.mark.parametrize("name", WIDTH)
@pytest.mark.parametrize(("channels", "wanted"), [(12, 7), (12, 1), (12, 20), (1, 3)])
def test_width_takes_channels_that_are_there(name: str, channels: int, wanted: int) -> None:
    state = {"expand.weight": torch.randn(channels, 4, 1, 1), "expand_norm.weight": torch.rand(channels)}
    index = WIDTH[name](channels, wanted, state, generator(0, "axis"))
    assert index.shape == (wanted,)
    assert index.min() >= -1
    assert index.max() < channels
    taken = index[index >= 0].tolist()
    if wanted <= channels:
        assert len(set(taken)) == wanted, "a narrower block takes as many different channels as it has"
    else:
        assert taken[:channels] == list(range(channels)), "a wider block loses none, and keeps their places"


@pytest.mark.parametrize("name", KERNEL)
@pytest.mark.parametrize(("kernel", "wanted"), [(3, 3), (3, 5), (3, 7), (5, 7), (7, 5), (7, 3), (5, 3)])
def test_kernel_takes_each_tap_once(name: str, kernel: int, wanted: int) -> None:
    index = KERNEL[name](kernel, wanted)
    taken = index[index >= 0].tolist()
    assert index.shape == (wanted,)
    assert len(set(taken)) == len(taken) == min(kernel, wanted)
    assert set(taken) <= set(range(kernel))
    assert taken == sorted(taken)
    assert index[wanted // 2] == kernel // 2, "the centres lie on each other"


@pytest.mark.parametrize("name", WIDTH)
def test_wider_blocks_keep_the_function(name: str) -> None:
    wider = with_blocks(
        SMALL, [[replace(b, expansion=5) if b.expansion > 1 else b for b in stage] for stage in SMALL.stages]
    )
    state = weights(SMALL)
    grown = remap(SMALL, state, wider, Strategy(width=name)).state
    torch.testing.assert_close(features(wider, grown), features(SMALL, state), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", GROWTH)
def test_growth_keeps_the_function(name: str) -> None:
    wider = with_blocks(
        SMALL, [[replace(b, expansion=5) if b.expansion > 1 else b for b in stage] for stage in SMALL.stages]
    )
    state = weights(SMALL)
    grown = remap(SMALL, state, wider, Strategy(growth=name)).state
    near = 1e-3 if name == "noise" else 1e-9
    torch.testing.assert_close(features(wider, grown), features(SMALL, state), rtol=near, atol=near)
