"""Search spaces: the article's sizes, and the seed as a path of every one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fna.arch import Arch, Block, Stem, with_output_stride, with_taps
from fna.arch.net_config import from_net_config
from fna.arch.spaces import (
    CELLS,
    DETECTION_LAYERS,
    EXPANSIONS,
    KERNELS,
    SEGMENTATION_LAYERS,
    added_blocks,
    default_layers,
    make_space,
    searchable_stages,
    table_size,
    task_space,
)
from fna.errors import FnaError
from fna.seeds import collect

SIZES = [  # the article's tables: seed, layers, architectures
    ("mobilenet_v2", SEGMENTATION_LAYERS, 6**6 * 7**19),
    ("mobilenet_v2", DETECTION_LAYERS, 6**6 * 7**15),
    ("fbnet_c", DETECTION_LAYERS, 6**6 * 7**15),
    ("proxyless_mobile", DETECTION_LAYERS, 6**6 * 7**15),
    ("resnet18", DETECTION_LAYERS, 5**8),
    ("resnet50", DETECTION_LAYERS, 5**16),
]


def tiny(*expansions: float) -> Arch:
    """An MBConv network with a stage of two layers for each expansion."""
    stages = []
    for expansion in expansions:
        block = Block("mbconv", 8, 8, expansion=expansion)
        stages.append((replace(block, stride=2), block))
    return Arch(Stem(8), tuple(stages))


def resnet(kind: str, channels: int = 32) -> Arch:
    """A ResNet of one stage of two layers."""
    block = Block(kind, channels, channels)
    return Arch(Stem(channels, kernel=7, max_pool=True), ((block, block),), activation="relu")


@pytest.mark.parametrize(("name", "layers", "size"), SIZES, ids=lambda value: str(value))
def test_sizes_are_the_articles(name: str, layers: tuple[int, ...], size: int) -> None:
    space = task_space(collect()[name].arch, layers)
    assert table_size(space, added_blocks(space, KERNELS, EXPANSIONS, CELLS)) == size


def test_blocks_of_expansion_1_are_added_to_fbnets_space(shared: Path) -> None:
    text = json.loads((shared / "golden" / "archs.json").read_text())["fbnet_c"]["net_config"]
    space = task_space(from_net_config(text), DETECTION_LAYERS)
    added = added_blocks(space, KERNELS, EXPANSIONS, CELLS)
    assert {layer: block.label for layer, block in added.items()} == {(1, 2): "k3e1", (1, 3): "k3e1"}
    assert space.size == 6**6 * 7**13 * 8**2
    assert [block.label for block in space.stages[1][2][-3:]] == ["k7e6", "k3e1", "skip"]


@pytest.mark.parametrize("layers", [SEGMENTATION_LAYERS, DETECTION_LAYERS], ids=["seg", "det"])
@pytest.mark.parametrize("name", collect())
def test_every_seed_is_a_path_of_its_space(name: str, layers: tuple[int, ...]) -> None:
    seed = collect()[name].arch
    space = task_space(seed, layers)
    path = space.seed_path()
    blocks = [[b for b in stage if b.kind != "skip"] for stage in space.path_arch(path).stages]
    assert blocks == [[b for b in stage if b.kind != "skip"] for stage in seed.stages]
    for (_, n), candidates in space.layers():
        assert len({block.label for block in candidates}) == len(candidates)
        assert len({(b.in_channels, b.out_channels, b.stride, b.dilation) for b in candidates}) == 1
        assert n > 0 or candidates[-1].kind != "skip"
    strided = with_output_stride(space, 16)
    assert strided.seed_path() == path


def test_a_resnet_chooses_its_cells_and_keeps_its_depth() -> None:
    space = task_space(resnet("basic"), DETECTION_LAYERS)
    assert [[block.label for block in layer] for layer in space.stages[0]] == [list(CELLS)] * 2
    assert {block.kind for layer in space.stages[0] for block in layer} == {"basic"}
    skippable = task_space(resnet("bottleneck"), DETECTION_LAYERS, cells=("k3g1", "k7g8"), skip=True)
    labels = [[block.label for block in layer] for layer in skippable.stages[0]]
    assert labels == [["k3g1", "k7g8"], ["k3g1", "k7g8", "skip"]]


def test_a_deeper_resnet_begins_as_its_seed() -> None:
    seed = resnet("basic")
    space = task_space(seed, DETECTION_LAYERS, layers=(4,))
    assert [layer[-1].kind for layer in space.stages[0]] == ["basic", "basic", "skip", "skip"]
    assert [space.path_arch(space.seed_path()).stages[0][n].label for n in range(4)] == ["k3g1", "k3g1", "skip", "skip"]


def test_the_first_stage_stays_and_others_grow() -> None:
    seed = tiny(1, 6, 3)
    assert searchable_stages(seed) == (1, 2)
    assert default_layers(seed, DETECTION_LAYERS) == (3, 3)
    assert default_layers(tiny(1, *[6] * 6), (1, 4, 4, 4, 4, 1)) == (2, 4, 4, 4, 4, 2)
    space = make_space(seed, layers=(2, 4), kernels=(3, 5), expansions=(2,))
    assert [len(stage) for stage in space.stages] == [2, 2, 4]
    assert all(len(layer) == 1 for layer in space.stages[0])
    assert [block.label for block in space.stages[2][1]] == ["k3e2", "k5e2", "k3e3", "skip"]


def test_without_skip_only_layers_the_seed_lacks_are_skipped() -> None:
    space = make_space(tiny(6), layers=(3,), skip=False)
    assert [layer[-1].kind for layer in space.stages[0]] == ["mbconv", "mbconv", "skip"]
    assert len(make_space(tiny(6)).stages[0]) == 2


def test_a_tapped_layer_keeps_the_seeds_width() -> None:
    seed = collect()["mobilenet_v2"].arch
    tapped = with_taps(seed)
    space = task_space(seed, DETECTION_LAYERS, tapped.taps)
    (stage,) = tapped.taps
    assert [block.label for block in space.stages[stage][0]] == ["k3e6", "k5e6", "k7e6"]
    assert space.size == 3 * 6**5 * 7**15
    assert space.stages[stage][1:] == task_space(seed, DETECTION_LAYERS).stages[stage][1:]
    assert with_taps(space).seed_path() == space.seed_path()


@pytest.mark.parametrize(
    ("seed", "settings", "message"),
    [
        (tiny(1, 6), {"layers": (4, 4)}, r"space.layers has 2 numbers, the seed has 1 searchable.*\[2\]"),
        (resnet("basic", 12), {}, r"layer 0.0 has 12 channels, which 8 groups do not divide; leave k7g8 out"),
        (resnet("basic"), {"cells": ("k4g1",)}, r"space.cells has 'k4g1'; expected an odd kernel and groups"),
        (resnet("basic"), {"cells": ("k3g0",)}, r"space.cells has 'k3g0'"),
        (
            Arch(Stem(8), ((Block("mbconv", 8, 8), Block("basic", 8, 8)),)),
            {},
            r"mixes basic and mbconv blocks; a space is made for a seed of one kind",
        ),
    ],
)
def test_mistakes_are_named(seed: Arch, settings: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(FnaError, match=message):
        make_space(seed, **settings)  # type: ignore[arg-type]
