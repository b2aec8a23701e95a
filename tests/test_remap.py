"""Laws, oracles and behaviour of parameter remapping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fna.arch import Arch, Block, Stem, SuperArch, with_blocks, with_output_stride
from fna.blocks import has_shortcut
from fna.errors import FnaError
from fna.network import Backbone, Classifier
from fna.remap import GROWTH, WIDTH, Row, Strategy, map_depth, map_groups, map_kernel, map_width, remap, summarise
from fna.supernet import SuperBackbone

State = dict[str, Tensor]
KINDS = ("mbconv", "basic", "bottleneck")
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


# --- random networks ------------------------------------------------------------------------------------------------


def choices(kind: str, channels: int) -> list[dict[str, Any]]:
    """The searchable settings of a block."""
    if kind == "mbconv":
        return [{"kernel": k, "expansion": e} for k in (3, 5, 7) for e in (1, 2, 3)]
    return [{"kernel": k, "groups": g} for k in (3, 5, 7) for g in ((1, 2, 4) if kind == "basic" else (1, 2))]


@st.composite
def archs(draw: Any, kinds: tuple[str, ...] = KINDS) -> Arch:
    kind = draw(st.sampled_from(kinds))
    stages, channels = [], 8
    for _ in range(draw(st.integers(1, 3))):
        out, layers = draw(st.sampled_from((8, 16))), []
        for n in range(draw(st.integers(1, 3))):
            if n and draw(st.integers(0, 3)) == 0:
                layers.append(Block("skip", out, out))
                continue
            stride = draw(st.sampled_from((1, 2))) if n == 0 else 1
            layers.append(Block(kind, channels, out, stride=stride, **draw(st.sampled_from(choices(kind, out)))))
            channels = out
        stages.append(tuple(layers))
    padding = draw(st.sampled_from(("symmetric", "same")))
    return Arch(Stem(8), tuple(stages), draw(st.sampled_from(("relu", "relu6"))), 1e-3, padding)


@st.composite
def grown(draw: Any, arch: Arch, deeper: bool = False) -> Arch:
    """Return an architecture that holds `arch`: larger kernels, wider, fewer groups; deeper: more layers, e1 grows."""
    width = draw(st.sampled_from((1, 2)))
    stages = []
    for stage in arch.stages:
        layers = []
        for b in stage:
            if b.kind == "mbconv" and (b.expansion > 1 or deeper):
                b = replace(b, expansion=b.expansion + draw(st.integers(0, 2)))
            if b.kind != "skip":
                groups = draw(st.sampled_from([g for g in (1, 2, 4) if b.groups % g == 0]))
                b = replace(b, kernel=b.kernel + 2 * draw(st.integers(0, 2)), groups=groups)
            layers.append(replace(b, in_channels=b.in_channels * width, out_channels=b.out_channels * width))
        if deeper:
            layers += [replace(layers[0], in_channels=layers[0].out_channels, stride=1)] * draw(st.integers(0, 2))
        stages.append(layers)
    stem = Stem(8 * width, draw(st.sampled_from((3, 5))))
    return replace(arch, stem=stem, stages=tuple(tuple(layers) for layers in stages))


@st.composite
def spaces(draw: Any, arch: Arch) -> SuperArch:
    """Return a search space around `arch`, its stages up to two layers longer."""
    stages = []
    for stage in arch.stages:
        later = replace(stage[0], in_channels=stage[0].out_channels, stride=1)
        layers = []
        for n in range(len(stage) + draw(st.integers(0, 2))):
            template = stage[0] if n == 0 else later
            some = draw(st.lists(st.sampled_from(choices(template.kind, template.out_channels)), max_size=3))
            own = [stage[n]] if n < len(stage) else []
            skip = [Block("skip", later.out_channels, later.out_channels)] if n else []
            blocks = {b.label: b for b in [*(replace(template, **c) for c in some), *own, *skip]}
            layers.append(tuple(blocks.values()))
        stages.append(tuple(layers))
    return SuperArch(arch, tuple(stages))


def random_state(
    arch: Arch | SuperArch, rng_seed: int = 0, dtype: torch.dtype = torch.float64, spread: float = 1.0
) -> State:
    """Return random weights, affine parameters and statistics; `spread` is that of the affine parameters."""
    g = torch.Generator().manual_seed(rng_seed)
    module = Backbone(arch) if isinstance(arch, Arch) else SuperBackbone(arch)
    state: State = {}
    for name, tensor in module.state_dict().items():
        value = torch.randn(tensor.shape, generator=g, dtype=torch.float64)
        if tensor.dim() == 4:
            value *= (2 / tensor[0].numel()) ** 0.5
        elif name.endswith(("weight", "bias")):
            value = value * spread + name.endswith("weight")
        if name.endswith("num_batches_tracked"):
            state[name] = torch.randint(1, 1000, (), generator=g)
        else:
            state[name] = (value.abs() + 0.5 if name.endswith("running_var") else value).to(dtype)
    return state


def images(height: int = 17, width: int = 24) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@torch.no_grad()
def features(arch: Arch, state: State, x: Tensor | None = None) -> list[Tensor]:
    network = Backbone(arch).double().eval()
    network.load_state_dict(state)
    out: list[Tensor] = network(images() if x is None else x)
    return out


def assert_same(a: State, b: State) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name])] == []


def one_block(*blocks: Block, activation: str = "relu6") -> Arch:
    """Return a network of one stage."""
    return Arch(Stem(blocks[0].in_channels), (blocks,), activation)


# --- laws -----------------------------------------------------------------------------------------------------------


@few
@given(archs(), seeds)
def test_identity_remap_is_bit_equal(arch: Arch, seed: int) -> None:
    state = random_state(arch, seed, torch.float32)
    result = remap(arch, state, arch)
    assert_same(result.state, state)
    assert {(row.tensor, row.source, row.rule) for row in result.report} == {(name, name, "copy") for name in state}
    before = {name: value.clone() for name, value in state.items()}
    for value in result.state.values():
        value.zero_()
    assert_same(state, before)  # nothing is shared with the source


@few
@given(st.data(), seeds, st.sampled_from((16, 17, 23)), st.sampled_from((8, 16, 32)))
def test_seed_path_through_super_network_is_the_seed(data: Any, seed: int, side: int, output_stride: int) -> None:
    arch = data.draw(archs())
    space = data.draw(spaces(arch))
    arch, space = with_output_stride(arch, output_stride), with_output_stride(space, output_stride)
    state = random_state(arch, seed)
    super_network = SuperBackbone(space).double().eval()
    super_network.load_state_dict(remap(arch, state, space).state)
    with torch.no_grad():
        out = super_network(images(side, 21), space.seed_path())
    expected = features(arch, state, images(side, 21))
    assert len(out) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))


@few
@given(st.data(), seeds, st.sampled_from(sorted(GROWTH)))
def test_growth_of_kernel_width_and_groups_preserves_the_function(data: Any, seed: int, growth: str) -> None:
    arch = data.draw(archs())
    larger = data.draw(grown(arch))
    state = random_state(arch, seed)
    result = remap(arch, state, larger, Strategy(growth=growth), seed)
    for small, large in zip(features(arch, state), features(larger, result.state), strict=True):
        torch.testing.assert_close(large[:, : small.shape[1]], small, rtol=1e-9, atol=1e-9)


@few
@given(st.data(), seeds, st.sampled_from(sorted(GROWTH)))
def test_shrinking_undoes_growing(data: Any, seed: int, growth: str) -> None:
    arch = data.draw(archs())
    larger = data.draw(grown(arch, deeper=True))
    state = random_state(arch, seed, torch.float32)
    strategy = Strategy(growth=growth)
    there = remap(arch, state, larger, strategy, seed).state
    assert_same(remap(larger, there, arch, strategy).state, state)


@few
@given(st.data(), seeds)
def test_every_tensor_is_written_once_and_accounted_for(data: Any, seed: int) -> None:
    arch = data.draw(archs())
    other: Arch | SuperArch = data.draw(st.one_of(spaces(arch), grown(arch, deeper=True)))
    pair = (arch, other) if isinstance(other, SuperArch) or data.draw(st.booleans()) else (other, arch)
    state = random_state(pair[0], seed)
    result = remap(pair[0], state, pair[1])
    wanted = random_state(pair[1])
    assert {n: w.shape for n, w in result.state.items()} == {n: w.shape for n, w in wanted.items()}
    assert sorted(row.tensor for row in result.report) == sorted(wanted)
    for row in result.report:
        assert row.copied + row.new == result.state[row.tensor].numel()
        assert row.copied + row.dropped == (state[row.source].numel() if row.source else 0)
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


# --- oracles: the article's equations, loop by loop, counting from 1 ------------------------------------------------


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


# --- behaviour ------------------------------------------------------------------------------------------------------


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
        sum((f * f.detach().cos()).mean() for f in network(images(19, 25))).backward()  # type: ignore[union-attr]
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
    assert not has_shortcut(small.stages[0][0])
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
    def map_strongest(channels: int, wanted: int, tensors: dict[str, Tensor]) -> Tensor:
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
