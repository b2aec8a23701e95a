"""Remapping against the article's equations, written as loops; and which new weights learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_archs import (
    KINDS,
    State,
    assert_same,
    choices,
    features,
    few,
    images,
    one_block,
    random_state,
    seeds,
)
from torch import Tensor

from fna.arch import Arch, Block
from fna.nets.network import Backbone
from fna.remapping import Strategy, remap
from fna.remapping.rules import map_depth, map_groups, map_kernel, map_width


def width_oracle(old: Tensor, r: int, s: int, new_value: float = 0.0) -> Tensor:
    """Eq. 2, 3 of a p x q x h x w tensor (a vector is p x 1 x 1 x 1)."""
    p, q, h, w = old.shape
    out = torch.full((r, s, h, w), new_value, dtype=old.dtype)
    for i in range(1, r + 1):
        for j in range(1, s + 1):
            if i <= p and j <= q:
                out[i - 1, j - 1] = old[i - 1, j - 1]
    return out


def groups_oracle(old: Tensor, g: int) -> Tensor:
    """Eq. 4, i and j from 0."""
    p, q, height, width = old.shape
    r, s = p, q // g
    out = torch.zeros(r, s, height, width, dtype=old.dtype)
    for i in range(r):
        group = i // (p // g)
        for j in range(s):
            out[i, j] = old[i, group * s + j]
    return out


def kernel_oracle(old: Tensor, wanted: int) -> Tensor:
    """Eq. 5, 6."""
    k = old.shape[-1]
    offset = abs(k - wanted) // 2
    out = torch.zeros(*old.shape[:2], wanted, wanted, dtype=old.dtype)
    for h in range(1, wanted + 1):
        for w in range(1, wanted + 1):
            if wanted <= k:
                out[:, :, h - 1, w - 1] = old[:, :, h + offset - 1, w + offset - 1]
            elif offset < h <= offset + k and offset < w <= offset + k:
                out[:, :, h - 1, w - 1] = old[:, :, h - offset - 1, w - offset - 1]
    return out


def unit_oracle(old: State, shapes: dict[str, torch.Size], groups: dict[str, int]) -> State:
    """Remap the tensors of one block, of the same parts, with the article's zeros for what is new."""
    out = {}
    for name, shape in shapes.items():
        if not shape:
            out[name] = old[name]
        elif len(shape) == 1:
            fill = 1.0 if name.endswith("running_var") else 0.0
            out[name] = width_oracle(old[name][:, None, None, None], shape[0], 1, fill)[:, 0, 0, 0]
        else:
            g = groups.get(name, 1)
            out[name] = kernel_oracle(groups_oracle(width_oracle(old[name], shape[0], shape[1] * g), g), shape[-1])
    return out


def test_map_depth_equals_eq_1() -> None:
    block = Block("mbconv", 8, 8)
    for depth in range(1, 5):
        for i in range(1, 8):
            assert map_depth([block] * depth, i - 1) + 1 == min(i, depth)


def test_map_depth_keeps_positions_where_the_source_skips() -> None:
    block, skip = Block("mbconv", 8, 8), Block("skip", 8, 8)
    stage = [block, skip, block, skip]
    assert [map_depth(stage, n) for n in range(6)] == [0, 0, 2, 2, 2, 2]
    assert map_depth([skip, block], 0) == -1


@few
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from((1, 3, 5, 7)), st.sampled_from((1, 3, 5, 7)))
def test_indices_equal_eq_2_3_5_6(channels: int, wanted: int, k: int, k_wanted: int) -> None:
    count = torch.arange(1.0, channels + 1)
    index = map_width(channels, wanted, {})
    expected = width_oracle(count[:, None, None, None], wanted, 1).flatten()
    assert torch.equal(index + 1.0, expected)
    taps = map_kernel(k, k_wanted)
    square = (torch.arange(1.0, k + 1)[:, None] * 10 + torch.arange(1.0, k + 1))[None, None]
    expected = kernel_oracle(square, k_wanted)[0, 0]
    both = (taps[:, None] >= 0) & (taps >= 0)
    assert torch.equal(torch.where(both, (taps[:, None] + 1.0) * 10 + taps + 1, 0), expected)


@few
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), seeds)
def test_map_groups_equals_eq_4(groups: int, rows: int, columns: int, seed: int) -> None:
    plain = torch.randn(rows * groups, columns * groups, 3, 3, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(map_groups(plain, groups), groups_oracle(plain, groups))


def grouped_and_plain(kind: str, groups: int, seed: int, crossing: bool) -> tuple[Tensor, Tensor]:
    """Return the features of a block of several groups and of the one of one group that it was remapped from."""
    plain, grouped = (one_block(Block(kind, 16, 16, groups=g)) for g in (1, groups))
    state = random_state(plain, seed)
    name = "stages.0.0.conv1.weight" if kind == "basic" else "stages.0.0.conv2.weight"
    group = torch.arange(len(state[name])) * groups // len(state[name])
    inside = {**state, name: state[name] * (group[:, None] == group)[:, :, None, None]}
    weights = state if crossing else inside
    return features(grouped, remap(plain, weights, grouped).state)[0], features(plain, weights)[0]


@few
@given(st.sampled_from(("basic", "bottleneck")), st.sampled_from((2, 4)), seeds)
def test_groups_preserve_the_function_where_nothing_crosses_them(kind: str, groups: int, seed: int) -> None:
    small, large = grouped_and_plain(kind, groups, seed, crossing=False)
    assert torch.allclose(small, large, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_groups_change_the_function_where_weights_cross_them(kind: str) -> None:
    """Of one state: in others ReLU may hide all that crosses."""
    small, large = grouped_and_plain(kind, 2, 0, crossing=True)
    assert not torch.allclose(small, large, rtol=1e-9, atol=1e-9)


@few
@given(st.data(), st.sampled_from(KINDS), seeds)
def test_remapped_block_equals_the_loops(data: Any, kind: str, seed: int) -> None:
    def draw_block(plain: bool) -> Block:
        options = [c for c in choices(kind, 8) if not plain or c.get("groups", 1) == 1]
        setting = data.draw(st.sampled_from([c for c in options if c.get("expansion", 2) > 1]))
        return Block(
            kind, 8, data.draw(st.sampled_from((12, 16, 24))) if plain or kind != "bottleneck" else 16, **setting
        )

    old, new = draw_block(plain=True), draw_block(plain=False)
    state = random_state(one_block(old), seed)
    result = remap(one_block(old), state, one_block(new), Strategy(growth="zero"))
    shapes = {name: value.shape for name, value in random_state(one_block(new)).items()}
    grouped = {"stages.0.0.conv1.weight" if kind == "basic" else "stages.0.0.conv2.weight": new.groups}
    assert_same(result.state, unit_oracle(state, shapes, grouped if kind != "mbconv" else {}))


# --- gradients of new weights ---------------------------------------------------------------------------------------


def is_new(old: Tensor, shape: torch.Size) -> Tensor:
    """Return where a tensor grown from `old` is new."""
    kept = torch.ones(old.shape)
    if old.dim() == 4:
        return kernel_oracle(width_oracle(kept, shape[0], shape[1]), shape[-1]) == 0
    return width_oracle(kept[:, None, None, None], shape[0], 1)[:, 0, 0, 0] == 0


def seen_gradients(arch: Arch, state: State, steps: int) -> State:
    """Train by SGD and return, for every parameter, the largest gradient of each element."""
    network = Backbone(arch).double()
    network.load_state_dict(state)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    seen = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for _ in range(steps):
        optimizer.zero_grad()
        sum((f * f.detach().cos()).mean() for f in network(images(19, 25))).backward()
        for name, p in network.named_parameters():
            assert p.grad is not None
            seen[name] = torch.maximum(seen[name], p.grad.abs())
        optimizer.step()
    return seen


GROWN = {
    "mbconv": (Block("mbconv", 8, 8, expansion=2), Block("mbconv", 8, 8, kernel=5, expansion=4)),
    "e1": (Block("mbconv", 8, 8), Block("mbconv", 8, 8, kernel=5, expansion=3)),
    "basic": (Block("basic", 8, 8), Block("basic", 16, 16, kernel=5)),
    "bottleneck": (Block("bottleneck", 8, 8), Block("bottleneck", 16, 16, kernel=5)),
}


@pytest.mark.parametrize("kind", GROWN)
def test_preserve_gives_every_new_weight_a_gradient_within_two_steps(kind: str) -> None:
    small, large = (one_block(b, b) for b in GROWN[kind])
    state = random_state(small, spread=0.05)  # no dead channels
    result = remap(small, state, large, rng_seed=3).state
    for name, gradient in seen_gradients(large, result, 2).items():
        new = is_new(state[name], gradient.shape) if name in state else torch.ones_like(gradient, dtype=torch.bool)
        assert bool((gradient[new] > 0).all()), name


def test_zero_growth_as_in_the_article_never_learns() -> None:
    small, large = (one_block(Block("mbconv", 8, 8, expansion=e), Block("mbconv", 8, 8, expansion=e)) for e in (2, 4))
    state = random_state(small)
    result = remap(small, state, large, Strategy(growth="zero")).state
    count = 0
    for name, gradient in seen_gradients(large, result, 3).items():
        new = is_new(state[name], gradient.shape)
        count += int(new.sum())
        assert not gradient[new].any(), name
    assert count > 0
