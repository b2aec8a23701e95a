"""Laws, oracles and behaviour of parameter remapping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_archs import (
    KINDS,
    State,
    archs,
    assert_same,
    exact,
    features,
    few,
    grown,
    images,
    one_block,
    random_state,
    rules,
    seeds,
    spaces,
)
from torch import Tensor

from fna.arch import Arch, Block, SuperArch, with_blocks, with_output_stride
from fna.errors import FnaError
from fna.nets.network import Classifier
from fna.nets.supernet import SuperBackbone
from fna.remapping import Row, Strategy, remap, summarise
from fna.remapping.rules import GROWTH, KERNEL, WIDTH

# --- laws -----------------------------------------------------------------------------------------------------------


@few
@given(archs(), seeds, rules)
def test_identity_remap_is_bit_equal(arch: Arch, seed: int, strategy: Strategy) -> None:
    state = random_state(arch, seed, torch.float32)
    result = remap(arch, state, arch, strategy)
    assert_same(result.state, state)
    assert {(row.tensor, row.source, row.rule) for row in result.report} == {(name, name, "copy") for name in state}
    before = {name: value.clone() for name, value in state.items()}
    for value in result.state.values():
        value.zero_()
    assert_same(state, before)  # nothing is shared with the source


@few
@given(st.data(), seeds, rules, st.sampled_from((16, 17, 23)), st.sampled_from((8, 16, 32)))
def test_seed_path_through_super_network_is_the_seed(
    data: Any, seed: int, strategy: Strategy, side: int, output_stride: int
) -> None:
    arch = data.draw(archs())
    space = data.draw(spaces(arch))
    arch, space = with_output_stride(arch, output_stride), with_output_stride(space, output_stride)
    state = random_state(arch, seed)
    super_network = SuperBackbone(space).double().eval()
    super_network.load_state_dict(remap(arch, state, space, strategy).state)
    with torch.no_grad():
        out = super_network(images(side, 21), space.seed_path())
    expected = features(arch, state, images(side, 21))
    assert len(out) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))


@few
@given(st.data(), seeds, st.sampled_from(sorted(WIDTH)), exact)
def test_growth_of_kernel_width_and_groups_preserves_the_function(
    data: Any, seed: int, width: str, growth: str
) -> None:
    arch = data.draw(archs())
    larger = data.draw(grown(arch))
    state = random_state(arch, seed)
    result = remap(arch, state, larger, Strategy(width=width, growth=growth), seed)
    for small, large in zip(features(arch, state), features(larger, result.state), strict=True):
        torch.testing.assert_close(large[:, : small.shape[1]], small, rtol=1e-9, atol=1e-9)


@few
@given(st.data(), seeds, st.sampled_from(sorted(KERNEL)), st.sampled_from(sorted(GROWTH)))
def test_shrinking_undoes_growing(data: Any, seed: int, kernel: str, growth: str) -> None:
    arch = data.draw(archs())
    larger = data.draw(grown(arch, deeper=True))
    state = random_state(arch, seed, torch.float32)
    strategy = Strategy(kernel=kernel, growth=growth)
    there = remap(arch, state, larger, strategy, seed).state
    assert_same(remap(larger, there, arch, strategy).state, state)


@few
@given(st.data(), seeds, rules)
def test_every_tensor_is_written_once_and_accounted_for(data: Any, seed: int, strategy: Strategy) -> None:
    arch = data.draw(archs())
    other: Arch | SuperArch = data.draw(st.one_of(spaces(arch), grown(arch, deeper=True)))
    pair = (arch, other) if isinstance(other, SuperArch) or data.draw(st.booleans()) else (other, arch)
    state = random_state(pair[0], seed)
    result = remap(pair[0], state, pair[1], strategy)
    wanted = random_state(pair[1])
    assert {n: w.shape for n, w in result.state.items()} == {n: w.shape for n, w in wanted.items()}
    assert sorted(row.tensor for row in result.report) == sorted(wanted)
    for row in result.report:
        assert row.copied + row.new == result.state[row.tensor].numel()
        assert row.copied - row.repeated + row.dropped == (state[row.source].numel() if row.source else 0)
        assert row.repeated == 0 or "width net2net" in row.rule
        assert row.shares["copied"] + row.shares["new"] == pytest.approx(1)
        assert min(row.copied, row.new, row.dropped) >= 0
    summary = summarise(result.report)
    assert summary["copied"] + summary["new"] == pytest.approx(1)
    assert sum(len(rule["where"].split(", ")) - rule["layers"] for rule in summary["rules"].values()) == 0


@few
@given(st.data(), seeds)
def test_super_network_to_target_collects(data: Any, seed: int) -> None:
    space = data.draw(archs().flatmap(spaces))
    path = [data.draw(st.integers(0, len(candidates) - 1)) for _, candidates in space.layers()]
    target = space.path_arch(path)
    state = random_state(space, seed, torch.float32)
    result = remap(space, state, target)
    labels = {f"stages.{s}.{n}": block.label for (s, n), block in target.layers()}
    for row in result.report:
        layer, _, part = row.tensor.rpartition(".")[0].rpartition(".")
        expected = row.tensor if layer == "stem" else row.tensor.replace(layer, f"{layer}.{labels[layer]}")
        assert (row.source, row.rule, row.new, row.dropped) == (expected, "collect", 0, 0), part
        assert torch.equal(result.state[row.tensor], state[expected])
    assert_same(remap(space, state, space).state, state)


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_values_depend_on_seed_and_name_alone(kind: str) -> None:
    small = Block(kind, 8, 8, expansion=2) if kind == "mbconv" else Block(kind, 8, 8)
    wide = replace(small, in_channels=16, out_channels=16)
    arch, state = one_block(small, small), random_state(one_block(small, small))
    before = torch.get_rng_state()
    first = remap(arch, state, one_block(wide, wide), rng_seed=1).state
    alone = remap(arch, state, one_block(wide), rng_seed=1).state
    other = remap(arch, state, one_block(wide, wide), rng_seed=2).state
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(alone, {name: first[name] for name in alone})
    convs = [name for name in first if first[name].dim() == 4]
    assert not any(torch.equal(first[name], other[name]) for name in convs)
    assert len({first[name].flatten()[-1].item() for name in convs}) == len(convs)


def test_fresh_values_are_he_normal_and_neutral_norms() -> None:
    def fresh(old: Block, new: Block) -> State:
        grown = remap(one_block(old), random_state(one_block(old)), one_block(new)).state
        return {name.removeprefix("stages.0.0."): w[old.hidden_channels :] for name, w in grown.items() if w.dim()}

    mbconv = fresh(Block("mbconv", 16, 16, expansion=2), Block("mbconv", 16, 16, kernel=5, expansion=60))
    basic = fresh(Block("basic", 16, 16), Block("basic", 64, 64, groups=4))
    for weight, fan_out in (
        (mbconv["expand.weight"], 960),
        (mbconv["depthwise.weight"], 25),
        (basic["conv1.weight"], 64 * 9 // 4),
        (basic["conv2.weight"], 64 * 9),
    ):
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    for name, value in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
        assert mbconv[f"depthwise_norm.{name}"].unique().tolist() == [value]


# --- behaviour ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_identity_expansion_is_exact_on_the_linear_range(activation: str) -> None:
    small = one_block(Block("mbconv", 8, 8), activation=activation)  # behind the stem: its input is activated already
    large = one_block(Block("mbconv", 8, 8, expansion=6), activation=activation)
    state = random_state(small)
    result = remap(small, state, large)
    torch.testing.assert_close(features(large, result.state), features(small, state), rtol=1e-9, atol=1e-9)
    rules = summarise(result.report)["rules"]
    assert rules["identity expand"] == {"layers": 1, "where": "0.0"}
    back = remap(large, result.state, small)
    assert summarise(back.report)["rules"]["expand dropped"] == {"layers": 1, "where": "0.0"}


def test_identity_shortcut() -> None:
    small, large = one_block(Block("basic", 8, 8)), one_block(Block("basic", 8, 16))
    assert small.stages[0][0].residual
    state = random_state(small)
    result = remap(small, state, large)
    torch.testing.assert_close(features(large, result.state)[0][:, :8], features(small, state)[0])
    assert [row.source for row in result.report if ".shortcut" in row.tensor] == [None] * 6


def test_copied_first_block_follows_the_width_rule() -> None:
    first = Block("mbconv", 8, 16, stride=2, expansion=2)
    later = Block("mbconv", 16, 16, expansion=2)
    state = random_state(one_block(first))
    result = remap(one_block(first), state, one_block(first, later, later))
    rows = {row.tensor: row for row in result.report}
    for n in (1, 2):
        row = rows[f"stages.0.{n}.expand.weight"]
        assert row.source == "stages.0.0.expand.weight"
        assert row.rule == "depth last, first block, width first, growth preserve"
        weight = result.state[row.tensor]
        assert torch.equal(weight[:16, :8], state["stages.0.0.expand.weight"])
        assert not weight[:16, 8:].any()  # readers of the new channels
        assert weight[16:].all()  # fresh
    assert rows["stages.0.1.project_norm.bias"].rule == "depth last, first block"


def test_one_index_serves_every_tensor_of_an_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    def map_strongest(channels: int, wanted: int, tensors: dict[str, Tensor], chance: torch.Generator) -> Tensor:
        """Keep the channels of the largest gamma, in order."""
        return tensors["depthwise_norm.weight"].topk(wanted).indices.sort().values

    monkeypatch.setitem(WIDTH, "strongest", map_strongest)
    old, new = Block("mbconv", 8, 16, expansion=3), Block("mbconv", 8, 12, expansion=2)
    state = random_state(one_block(old))
    result = remap(one_block(old), state, one_block(new), Strategy(width="strongest")).state
    index = state["stages.0.0.depthwise_norm.weight"].topk(16).indices.sort().values
    for name, value in result.items():
        part = name.split(".")[-2]
        expected = state[name]
        if part in ("expand", "expand_norm", "depthwise", "depthwise_norm") and expected.dim():
            expected = expected[index]
        if part in ("project", "project_norm") and expected.dim():
            expected = expected[:12]  # shared with the neighbours: always the first
        assert torch.equal(value, expected[:, index] if part == "project" else expected), name


def test_tail_is_copied_where_both_have_one() -> None:
    arch = replace(one_block(Block("mbconv", 8, 8, expansion=2)), head_channels=12, num_classes=5)
    state = {name: value.clone() for name, value in Classifier(arch).state_dict().items()}
    copy = remap(arch, state, arch).state
    assert_same(copy, state)
    assert {w.data_ptr() for w in copy.values()}.isdisjoint(w.data_ptr() for w in state.values())
    backbone = {name: value for name, value in state.items() if name.startswith(("stem.", "stages."))}
    assert_same(remap(arch, backbone, arch).state, backbone)
    assert_same(remap(arch, state, replace(arch, head_channels=0, num_classes=0)).state, backbone)
    with pytest.raises(FnaError, match=r"head\.conv\.weight.*head_channels"):
        remap(arch, {n: w for n, w in state.items() if n != "head.conv.weight"}, arch)


def test_half_precision_weights_keep_their_type() -> None:
    small, large = (one_block(Block("mbconv", 8, 8, expansion=e)) for e in (1, 4))
    state = {n: w.bfloat16() if w.is_floating_point() else w for n, w in random_state(small).items()}
    result = remap(small, state, large).state
    assert {w.dtype for n, w in result.items() if not n.endswith("tracked")} == {torch.bfloat16}


# --- bad input ------------------------------------------------------------------------------------------------------


def test_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(FnaError, match=r"unknown kernel strategy 'center' \(did you mean 'centre'\?\); known: centre"):
        Strategy(kernel="center")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("stages.0.0.expand.weight"), r"lack 'stages\.0\.0\.expand\.weight', of shape \(16, 8, 1, 1\)"),
        (
            lambda s: s.update({"stem.conv.weight": torch.zeros(8, 3, 5, 5)}),
            r"'stem\.conv\.weight' has shape.*expected",
        ),
        (
            lambda s: s.update({"stages.0.1.expand.weight": torch.zeros(1)}),
            r"did you mean 'stages\.0\.0\.expand\.weight'",
        ),
        (
            lambda s: s.update({"backbone." + n: s.pop(n) for n in list(s)}),
            r"did you mean 'backbone\.stem\.conv\.weight'",
        ),
    ],
)
def test_weights_that_do_not_fit_the_source_are_named(change: Any, message: str) -> None:
    arch = one_block(Block("mbconv", 8, 8, expansion=2))
    state = random_state(arch)
    change(state)
    with pytest.raises(FnaError, match=message):
        remap(arch, state, arch)


def test_unreachable_destinations_are_named() -> None:
    block, skip = Block("mbconv", 8, 8, expansion=2), Block("skip", 8, 8)
    arch = one_block(block)
    state = random_state(arch)
    with pytest.raises(FnaError, match="1 stages, the destination 2"):
        remap(arch, state, with_blocks(arch, [[block], [block]]))
    with pytest.raises(FnaError, match=r"layer 0\.0 is a 'basic' block, the source's a 'mbconv'"):
        remap(arch, state, one_block(Block("basic", 8, 8)))
    begins_with_skip = one_block(skip, block)
    with pytest.raises(FnaError, match=r"layer 0\.0 has nothing to take"):
        remap(begins_with_skip, random_state(begins_with_skip), arch)


def test_operation_outside_the_super_network_is_named() -> None:
    block = Block("mbconv", 8, 8, expansion=2)
    space = SuperArch(one_block(block), (((block, replace(block, kernel=5)),),))
    state = random_state(space)
    with pytest.raises(FnaError, match=r"layer 0\.0: 'k7e2'.*candidates: k3e2, k5e2"):
        remap(space, state, one_block(replace(block, kernel=7)))
    with pytest.raises(FnaError, match=r"layer 0\.1: 'k3e2'.*no such layer"):
        remap(space, state, one_block(block, block))
    with pytest.raises(FnaError, match=r"layer 0\.0: 'k3e2' \(mbconv, 8 to 16 channels\) is not"):
        remap(space, state, one_block(replace(block, out_channels=16)))


def test_summary_counts_layers_by_rule() -> None:
    rows = [
        Row("stem.conv.weight", "stem.conv.weight", "copy", 10, 0, 0),
        Row("stages.0.1.k5e6.expand.weight", "stages.0.0.expand.weight", "depth last, kernel centre", 4, 6, 2),
        Row("stages.0.1.k7e6.expand.weight", "stages.0.0.expand.weight", "depth last, kernel centre", 6, 4, 2),
    ]
    assert summarise(rows) == {
        "copied": 20 / 30,
        "new": 10 / 30,
        "dropped": 4 / 24,
        "rules": {
            "copy": {"layers": 1, "where": "stem"},
            "depth last": {"layers": 1, "where": "0.1"},
            "kernel centre": {"layers": 1, "where": "0.1"},
        },
    }
