"""A seed cut by hand keeps to its cost, begins late and skips before it narrows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fna.arch import Arch, Block, Stem, SuperArch, with_blocks
from fna.arch.cutting import SPENT, cut_by_hand
from fna.arch.spaces import make_space, skip_like
from fna.cost.madds import backbone_cost
from fna.seeds import find_variant

SEEDS = {name: find_variant(name).arch for name in ("efficientnet_lite0", "mobilenet_v2", "fbnet_c", "resnet18")}
SPACES = {name: make_space(arch) for name, arch in SEEDS.items()}
SIZE_HW = (64, 96)


def madds(arch: Arch) -> int:
    return backbone_cost(arch, SIZE_HW).madds


def changed(seed: Arch, cut: Arch) -> list[tuple[int, str]]:
    """The flat index of every layer that was cut, and how."""
    pairs = zip(seed.layers(), cut.layers(), strict=True)
    return [
        (i, "skip" if new.kind == "skip" else "narrow") for i, ((_, old), (_, new)) in enumerate(pairs) if old != new
    ]


def skip(arch: Arch, layers: list[int]) -> Arch:
    """The architecture without some layers, by flat index."""
    flat = iter(range(100))
    return with_blocks(
        arch, [[skip_like(block) if next(flat) in layers else block for block in stage] for stage in arch.stages]
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SEEDS)), st.floats(0.3, 1.2))
def test_a_cut_spends_its_limit_or_there_is_none(name: str, share: float) -> None:
    seed, limit = SEEDS[name], int(share * madds(SEEDS[name]))
    cut = cut_by_hand(seed, SPACES[name], limit, madds)
    if cut is None:
        assert name == "resnet18" or not 0.5 < share < 1 / SPENT, "an MBConv network has fine steps"
        return
    assert SPENT * limit <= madds(cut) <= limit
    assert cut.out_channels == seed.out_channels
    assert [len(stage) for stage in cut.stages] == [len(stage) for stage in seed.stages]
    assert all(block.kind != "skip" or n > 0 or old.kind == "skip" for ((_, n), block), (_, old) in zip(
        cut.layers(), seed.layers(), strict=True
    ))  # fmt: skip


@pytest.mark.parametrize("share", [0.95, 0.9, 0.85, 0.8, 0.7, 0.6])
def test_late_layers_are_skipped_first_then_narrowed(share: float) -> None:
    seed, space = SEEDS["efficientnet_lite0"], SPACES["efficientnet_lite0"]
    limit = int(share * madds(seed))
    cut = cut_by_hand(seed, space, limit, madds)
    assert cut is not None
    space.path_of(cut)  # lies in the space
    middle = sum(1 for _ in seed.layers()) // 2
    skippable = [i for i, ((_, n), _) in enumerate(seed.layers()) if n > 0 and i >= middle]
    changes = changed(seed, cut)
    skipped = [i for i, how in changes if how == "skip" and i >= middle]
    if len(skipped) == len(changes):
        assert skipped == skippable[-len(skipped) :], "the last layers go first"
        return
    alone = skip(seed, skipped)
    for left in set(skippable) - set(skipped):
        assert madds(skip(alone, [left])) < SPENT * limit, "a layer is narrowed only where none can be skipped"


def test_without_smaller_candidates_expansions_are_halved_and_taps_are_kept() -> None:
    stage = (Block("mbconv", 8, 8, expansion=6.0),)
    seed = Arch(Stem(8), (stage, stage))
    space = SuperArch(seed, tuple(tuple((block,) for block in blocks) for blocks in seed.stages))
    limit = madds(with_blocks(seed, [seed.stages[0], [replace(stage[0], expansion=3.0)]]))
    cut = cut_by_hand(seed, space, limit, madds)
    assert cut is not None
    assert [block.expansion for _, block in cut.layers()] == [6.0, 3.0]
    tapped = cut_by_hand(seed, space, limit, madds, taps=(1,))
    assert tapped is not None
    assert [block.expansion for _, block in tapped.layers()] == [3.0, 6.0]


def test_a_seed_that_costs_less_is_not_cut() -> None:
    seed, space = SEEDS["mobilenet_v2"], SPACES["mobilenet_v2"]
    assert cut_by_hand(seed, space, madds(seed), madds) == seed
    assert cut_by_hand(seed, space, 2 * madds(seed), madds) is None
    assert cut_by_hand(seed, space, 1, madds) is None
