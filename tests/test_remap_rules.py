"""What each rule of remapping preserves, and which channels it takes."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from random_archs import KINDS, State, archs, assert_same, exact, features, few, images, one_block, random_state, seeds
from torch import Tensor
from torch.nn import functional as F

from fna.arch import Arch, Block, Stem, with_blocks
from fna.arch.weights import block_units
from fna.nets.network import Backbone
from fna.remapping import Strategy, remap, summarise
from fna.remapping.rules import (
    DEPTH,
    WIDTH,
    map_depth_identity,
    map_kernel_dilated,
    map_width_replicated,
    score_bn,
    score_l1,
    score_std,
    select_by_score,
)
from fna.rng import generator

SCORES = ("bn", "std", "l1")
WIDE = {  # a narrow block and the same block wider inside
    "mbconv": (Block("mbconv", 8, 8, expansion=2), Block("mbconv", 8, 8, expansion=5)),
    "basic": (Block("basic", 8, 8), Block("basic", 8, 20)),
    "bottleneck": (Block("bottleneck", 8, 16), Block("bottleneck", 8, 40)),
}


def rows_of(arch: Arch, other: Arch, strategy: Strategy) -> dict[str, Any]:
    result = remap(arch, random_state(arch), other, strategy)
    return {row.tensor.removeprefix("stages.0."): row for row in result.report}


# --- depth: net2net -------------------------------------------------------------------------------------------------


@st.composite
def deepened(draw: Any, arch: Arch) -> Arch:
    """Return `arch` with its skips filled and its stages longer."""
    stages = []
    for stage in arch.stages:
        out = stage[0].out_channels
        later = replace(stage[0], in_channels=out, stride=1, kernel=draw(st.sampled_from((3, 5))))
        layers = [later if b.kind == "skip" and draw(st.booleans()) else b for b in stage]
        stages.append(layers + [later] * draw(st.integers(0, 2)))
    return with_blocks(arch, stages)


@few
@given(st.data(), seeds, exact)
def test_net2net_layers_preserve_the_function(data: Any, seed: int, growth: str) -> None:
    arch = data.draw(archs())
    deeper = data.draw(deepened(arch))
    state = random_state(arch, seed)
    result = remap(arch, state, deeper, Strategy(depth="net2net", growth=growth), seed)
    torch.testing.assert_close(features(deeper, result.state), features(arch, state), rtol=1e-9, atol=1e-9)
    rule = f"depth net2net, growth {growth}"
    assert {row.rule for row in result.report} <= {"copy", rule}
    assert all((row.source is None) == (row.rule == rule) == (row.copied == 0) for row in result.report)


def test_net2net_layers_are_found_and_others_follow_the_last() -> None:
    stage = [Block("mbconv", 8, 16, stride=2), Block("mbconv", 16, 16), Block("skip", 16, 16)]
    later = Block("mbconv", 16, 16, expansion=3)
    assert [map_depth_identity(stage, n, later) for n in range(5)] == [0, 1, None, None, None]
    assert [map_depth_identity(stage, n, replace(later, out_channels=24)) for n in range(5)] == [0, 1, 1, 1, 1]
    assert map_depth_identity(stage, 3, Block("basic", 16, 16)) == 1  # and remap says that the kinds differ
    assert map_depth_identity([Block("skip", 8, 8)], 0, Block("mbconv", 8, 8)) is None
    assert map_depth_identity([Block("skip", 8, 8)], 0, Block("mbconv", 8, 16)) == -1
    rows = rows_of(
        with_blocks(one_block(stage[0]), [stage[:2]]),
        one_block(*stage[:2], replace(later, out_channels=24)),
        Strategy(depth="net2net"),
    )
    assert rows["2.project.weight"].rule.startswith("depth last, ")


# --- width: by importance -------------------------------------------------------------------------------------------


@few
@given(st.integers(1, 12), st.integers(1, 15), seeds)
def test_select_by_score_is_algorithm_1(channels: int, wanted: int, seed: int) -> None:
    score = torch.randint(0, 5, (channels,), generator=torch.Generator().manual_seed(seed)).float()  # with ties
    index = select_by_score(score, wanted).tolist()
    best = sorted(sorted(range(channels), key=lambda c: (-score[c], c))[:wanted])
    assert index == best + [-1] * (wanted - channels)


def test_scores_are_those_of_the_last_layer_that_writes() -> None:
    g = torch.Generator().manual_seed(0)
    tensors = {
        "expand.weight": torch.randn(6, 4, 1, 1, generator=g),
        "expand_norm.weight": torch.randn(6, generator=g),
        "expand_norm.bias": torch.randn(6, generator=g),
        "depthwise.weight": torch.randn(6, 1, 3, 3, generator=g),
        "depthwise_norm.weight": torch.randn(6, generator=g),
        "depthwise_norm.running_var": torch.randn(6, generator=g),
    }
    kernels = [tensors["depthwise.weight"][c].flatten().tolist() for c in range(6)]
    torch.testing.assert_close(score_bn(tensors), tensors["depthwise_norm.weight"].abs())
    torch.testing.assert_close(score_l1(tensors), torch.tensor([sum(map(abs, taps)) for taps in kernels]))
    std = [(sum((tap - sum(taps) / 9) ** 2 for tap in taps) / 9) ** 0.5 for taps in kernels]
    torch.testing.assert_close(score_std(tensors), torch.tensor(std))


def axes_of(arch: Arch) -> dict[str, tuple[str | None, str | None]]:
    """The channel axes of every weight of a network's blocks, by its name."""
    return {f"{unit.name}.{name}": w.axes for *_, unit in block_units(arch) for name, w in unit.weights.items()}


def permuted(arch: Arch, state: State, axis: str, order: Tensor) -> State:
    """Return the weights of a block that computes the same with the channels of one axis in another order."""
    out = dict(state)
    for name, axes in axes_of(arch).items():
        for dim, own in enumerate(axes):
            out[name] = out[name].index_select(dim, order) if own == axis else out[name]
    return out


@few
@given(st.sampled_from(KINDS), st.sampled_from(SCORES), seeds, st.data())
def test_importance_does_not_depend_on_the_order_of_channels(kind: str, width: str, seed: int, data: Any) -> None:
    """Narrowing by importance gives the same function however the hidden channels of the source were numbered."""
    narrow, wide = (one_block(b) for b in WIDE[kind])
    axis = data.draw(st.sampled_from([a for a in ("hidden", "hidden2") if (a, None) in axes_of(wide).values()]))
    state = random_state(wide, seed)
    channels = wide.stages[0][0].hidden_channels
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
    other = permuted(wide, state, axis, order)
    torch.testing.assert_close(features(wide, other), features(wide, state))
    results = [remap(wide, weights, narrow, Strategy(width=width)).state for weights in (state, other)]
    torch.testing.assert_close(features(narrow, results[0]), features(narrow, results[1]))


@pytest.mark.parametrize("width", SCORES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_index_set_serves_an_axis(kind: str, width: str) -> None:
    narrow, wide = (one_block(b) for b in WIDE[kind])
    state = random_state(wide, 3)
    result = remap(wide, state, narrow, Strategy(width=width)).state
    index: dict[str, Tensor] = {"out": torch.arange(narrow.out_channels)}
    for axis in ("hidden", "hidden2"):
        writers = {
            name.removeprefix("stages.0.0."): state[name] for name, axes in axes_of(wide).items() if axes[0] == axis
        }
        if writers:
            index[axis] = WIDTH[width](0, narrow.stages[0][0].hidden_channels, writers, generator(0))
            assert not torch.equal(index[axis], torch.arange(len(index[axis]))), "the draw should tell the rules apart"
    for name, value in result.items():
        expected = state[name]
        for dim, own in enumerate(axes_of(narrow).get(name, ())):
            expected = expected.index_select(dim, index[own]) if own in index else expected
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("width", [*SCORES, "net2net"])
@pytest.mark.parametrize("change", [(2, 2), (1, 2), (2, 1)])
def test_channels_at_a_grouped_convolution_keep_their_order(width: str, change: tuple[int, int]) -> None:
    old, new = (Block("bottleneck", 8, out, groups=g) for out, g in zip((16, 32), change, strict=True))
    for source, target in ((old, new), (new, old)):
        rows = rows_of(one_block(source), one_block(target), Strategy(width=width))
        assert "width first" in rows["0.conv2.weight"].rule
        assert not [row for row in rows.values() if f"width {width}" in row.rule]
        state = random_state(one_block(source))
        ordered = remap(one_block(source), state, one_block(target), Strategy())
        assert_same(remap(one_block(source), state, one_block(target), Strategy(width=width)).state, ordered.state)


# --- width: net2net -------------------------------------------------------------------------------------------------


@few
@given(st.sampled_from(KINDS), seeds, exact, st.sampled_from(("relu", "relu6")))
def test_net2net_widening_preserves_the_function(kind: str, seed: int, growth: str, activation: str) -> None:
    narrow, wide = (one_block(*(b, replace(b, in_channels=b.out_channels)), activation=activation) for b in WIDE[kind])
    state = random_state(narrow, seed)
    result = remap(narrow, state, wide, Strategy(width="net2net", growth=growth), seed)
    small, large = features(narrow, state)[0], features(wide, result.state)[0]
    torch.testing.assert_close(large[:, : small.shape[1]], small, rtol=1e-9, atol=1e-9)
    assert "width net2net" in summarise(result.report)["rules"]


def test_net2net_replicates_and_divides() -> None:
    narrow, wide = (one_block(b) for b in WIDE["mbconv"])
    state = random_state(narrow)
    result = remap(narrow, state, wide, Strategy(width="net2net"), rng_seed=5)
    index = map_width_replicated(16, 40, {}, generator(5, "stages.0.0", "hidden"))
    assert index[:16].tolist() == list(range(16))
    assert 1 < len(set(index[16:].tolist())) <= 16
    times = index.bincount(minlength=16)
    for part in ("expand.weight", "expand_norm.running_mean", "depthwise.weight", "depthwise_norm.weight"):
        assert torch.equal(result.state[f"stages.0.0.{part}"], state[f"stages.0.0.{part}"][index])
    project = (state["stages.0.0.project.weight"] / times[:, None, None])[:, index]
    torch.testing.assert_close(result.state["stages.0.0.project.weight"], project)
    rows = {row.tensor.removeprefix("stages.0.0."): row for row in result.report}
    expected = ("width net2net", 40 * 8, 24 * 8)
    assert (rows["expand.weight"].rule, rows["expand.weight"].copied, rows["expand.weight"].repeated) == expected
    summary = summarise(result.report)
    assert (summary["copied"], summary["new"], summary["dropped"]) == (1, 0, 0)
    assert {(row.new, row.dropped) for row in rows.values()} == {(0, 0)}
    assert_same(remap(narrow, state, wide, Strategy(width="net2net"), rng_seed=5).state, result.state)
    other = remap(narrow, state, wide, Strategy(width="net2net"), rng_seed=6).state
    assert not torch.equal(other["stages.0.0.expand.weight"], result.state["stages.0.0.expand.weight"])


# --- kernel: dilate -------------------------------------------------------------------------------------------------


@few
@given(
    st.sampled_from(("mbconv", "bottleneck")),
    st.integers(1, 3),
    st.integers(1, 2),
    seeds,
    st.sampled_from(("symmetric", "same")),
)
def test_dilated_kernel_computes_the_dilated_convolution(
    kind: str, dilation: int, stride: int, seed: int, padding: str
) -> None:
    block = Block(kind, 8, 16, stride=stride)
    arch = replace(one_block(block, replace(block, in_channels=16, stride=1)), padding=padding)
    larger = with_blocks(arch, [[replace(b, kernel=1 + 2 * dilation) for b in stage] for stage in arch.stages])
    dilated = with_blocks(arch, [[replace(b, dilation=dilation) for b in stage] for stage in arch.stages])
    state = random_state(arch, seed)
    result = remap(arch, state, larger, Strategy(kernel="dilate")).state
    torch.testing.assert_close(features(larger, result), features(dilated, state), rtol=1e-9, atol=1e-9)
    for name, value in result.items():
        torch.testing.assert_close(value.double().norm(), state[name].double().norm())


@pytest.mark.parametrize("wanted", [3, 5, 7, 9])
def test_dilated_taps_are_those_of_eq_11(wanted: int) -> None:
    index = map_kernel_dilated(3, wanted)
    for i in range(3):
        assert index[i * (wanted - 1) // 2] == i  # h = 1 + i (k - 1) / 2, counted from 1
    assert (index >= 0).sum() == 3
    assert map_kernel_dilated(5, 7).tolist() == [-1, 0, 1, 2, 3, 4, -1]  # no whole dilation
    plain, taps = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(wanted)), (index >= 0).nonzero()[:, 0]
    weight = torch.zeros(1, 1, wanted, wanted)
    weight[:, :, taps[:, None], taps] = plain
    x, d = torch.randn(1, 1, 12, 12), (wanted - 1) // 2
    torch.testing.assert_close(F.conv2d(x, weight, padding=d), F.conv2d(x, plain, padding=d, dilation=d))


# --- growth ---------------------------------------------------------------------------------------------------------


def first_gradients(arch: Arch, state: State) -> State:
    network = Backbone(arch).double()
    network.load_state_dict(state)
    sum((f * f.detach().cos()).mean() for f in network(images(33, 35))).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", ["first", "net2net"])
def test_noise_gives_every_weight_a_gradient_at_once_and_nearly_the_function(kind: str, width: str) -> None:
    narrow, wide = (one_block(*(b, replace(b, in_channels=b.out_channels))) for b in WIDE[kind])
    deeper = with_blocks(wide, [[*wide.stages[0], wide.stages[0][1]]])
    state = random_state(narrow, spread=0.05)
    result = remap(narrow, state, deeper, Strategy(depth="net2net", width=width, growth="noise"), 1)
    for name, gradient in first_gradients(deeper, result.state).items():
        assert gradient.count_nonzero() == gradient.numel(), name
    small, large = features(narrow, state)[0], features(deeper, result.state)[0]
    difference = (large[:, : small.shape[1]] - small).abs().max() / small.abs().max()
    assert 0 < difference < 0.05
    rules = summarise(result.report)["rules"]
    assert rules["growth noise"]["where"] == "0.0, 0.1, 0.2"
    assert rules["depth net2net"] == {"layers": 1, "where": "0.2"}


def test_noise_parts_copied_channels() -> None:
    narrow, wide = (one_block(b) for b in WIDE["mbconv"])
    state = random_state(narrow)
    for growth, alike in (("preserve", True), ("noise", False)):
        result = remap(narrow, state, wide, Strategy(width="net2net", growth=growth)).state
        index = map_width_replicated(16, 40, {}, generator(0, "stages.0.0", "hidden"))
        gradient = first_gradients(wide, result)["stages.0.0.expand.weight"]
        copy = 16 + next(i for i in range(24) if gradient[index[16 + i]].any())
        assert torch.allclose(gradient[copy], gradient[index[copy]], rtol=1e-12, atol=0) == alike
        assert torch.equal(result["stages.0.0.expand.weight"][:16], state["stages.0.0.expand.weight"])


# --- expansion 1 ----------------------------------------------------------------------------------------------------


def fbnet_stage(expansion: float) -> Arch:
    """Return stage 24 of FBNet-C: expansion 6, then 1; the later blocks read sums that no activation bounds."""
    first = Block("mbconv", 8, 12, stride=2, expansion=6)
    later = Block("mbconv", 12, 12, expansion=expansion)
    return Arch(Stem(8), ((first, later, replace(later, kernel=5)),), activation="relu")


@few
@given(st.sampled_from(sorted(WIDTH)), st.sampled_from((3, 6)), seeds, exact)
def test_expansion_1_grows_by_an_identity(width: str, expansion: int, seed: int, growth: str) -> None:
    """Exact where the activation is linear, under every width strategy: here every input is made positive."""
    small, large = fbnet_stage(1), fbnet_stage(expansion)
    state = random_state(small, seed, spread=0.1)
    for n in range(3):
        state[f"stages.0.{n}.project_norm.weight"] *= 0.01
        state[f"stages.0.{n}.project_norm.bias"] += 20
    result = remap(small, state, large, Strategy(width=width, growth=growth), seed)
    torch.testing.assert_close(features(large, result.state), features(small, state), rtol=1e-9, atol=1e-9)
    rules = summarise(result.report)["rules"]
    assert rules["identity expand"] == {"layers": 2, "where": "0.1, 0.2"}
    for n in (1, 2):
        weight = result.state[f"stages.0.{n}.expand.weight"]
        assert torch.equal(weight[:12, :, 0, 0], torch.eye(12, dtype=weight.dtype))
    rows = {row.tensor: row for row in result.report}
    row = rows["stages.0.1.expand.weight"]
    assert (row.source, row.copied, row.dropped, row.new) == (None, 0, 0, expansion * 12 * 12)
    assert row.rule.startswith(f"identity expand, width {width}")


@pytest.mark.parametrize("width", sorted(WIDTH))
def test_the_input_of_an_expansion_1_block_keeps_its_order(width: str) -> None:
    small, large = (one_block(Block("mbconv", c, c)) for c in (8, 12))
    state = random_state(large)
    result = remap(large, state, small, Strategy(width=width)).state
    for name, value in result.items():
        expected = state[name]
        for dim in range(min(expected.dim(), 2)):
            expected = expected.narrow(dim, 0, value.shape[dim])
        assert torch.equal(value, expected), name


# --- the report -----------------------------------------------------------------------------------------------------


@few
@given(st.data(), seeds, st.sampled_from(("first", *SCORES)))
def test_rows_count_the_elements_that_moved(data: Any, seed: int, width: str) -> None:
    """Every source element is a number of its own, so that what moved can be seen in the result."""
    arch = data.draw(archs())
    kernels, expansions = st.sampled_from((3, 5, 7)), st.sampled_from((2, 3))
    other = with_blocks(
        arch,
        [
            [
                replace(b, kernel=data.draw(kernels), expansion=data.draw(expansions))
                if b.kind == "mbconv" and b.expansion > 1
                else b
                if b.kind == "skip"
                else replace(b, kernel=data.draw(kernels))
                for b in stage
            ]
            for stage in arch.stages
        ],
    )
    assume(other != arch)
    state = random_state(arch, seed)
    numbered = {name: torch.arange(2.0, 2 + value.numel()).view(value.shape) for name, value in state.items()}
    result = remap(arch, numbered, other, Strategy(width=width, growth="zero"))
    for row in result.report:
        value = result.state[row.tensor]
        moved = value[value > 1]  # the running variance of a new channel is 1
        assert (row.source, row.copied, row.new) == (row.tensor, moved.numel(), value.numel() - moved.numel())
        assert row.dropped == numbered[row.tensor].numel() - moved.unique().numel()


def test_rows_are_csv_and_json() -> None:
    narrow, wide = (one_block(b) for b in WIDE["mbconv"])
    report = [asdict(row) for row in remap(narrow, random_state(narrow), wide, Strategy(depth="net2net")).report]
    assert json.loads(json.dumps(report)) == report
    text = io.StringIO()
    writer = csv.DictWriter(text, list(report[0]))
    writer.writeheader()
    writer.writerows(report)
    read = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in report] == read
    assert json.loads(json.dumps(summarise(remap(narrow, random_state(narrow), wide).report)))["rules"]


def test_every_depth_rule_names_itself_or_the_last() -> None:
    block = Block("mbconv", 8, 8, expansion=2)
    for name in DEPTH:
        rows = rows_of(one_block(block), one_block(block, block), Strategy(depth=name))
        assert {row.rule.split(",")[0] for key, row in rows.items() if key.startswith("1.")} == {f"depth {name}"}
