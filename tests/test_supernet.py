"""The super network: a path is the plain network, a mixture is Eq. 7, costs agree, alpha steps leave no trace."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from fna.arch import Arch, Block, LayerPath, Stem, SuperArch, with_output_stride, with_taps
from fna.arch.spaces import make_space
from fna.cost.madds import cost_table, path_cost
from fna.errors import FnaError
from fna.nets.network import Backbone, Model
from fna.nets.supernet import (
    MixedOp,
    Mixture,
    SuperBackbone,
    entropy,
    expected_cost,
    frozen_weights,
    path_backbone,
    path_network,
)
from fna.remapping import remap
from fna.rng import generator, seeded
from fna.searching.sampling import draw_path
from fna.tasks.heads import DeepLabV3Head
from fna.training.compute import Compute
from fna.training.distributed import World
from fna.training.norms import recalibrate


def tiny_seed(padding: str = "symmetric") -> Arch:
    """A network of strides 2 to 32 with few channels; the first stage is fixed in a space."""
    stages = [(Block("mbconv", 8, 8),)]
    for in_channels, out_channels, layers in ((8, 8, 2), (8, 12, 2), (12, 12, 1), (12, 16, 1)):
        first = Block("mbconv", in_channels, out_channels, stride=2, expansion=3)
        stages.append((first, *[Block("mbconv", out_channels, out_channels, expansion=3)] * (layers - 1)))
    return Arch(Stem(8), tuple(stages), padding=padding)


def tiny_space(padding: str = "symmetric", output_stride: int = 32) -> SuperArch:
    space = make_space(tiny_seed(padding), kernels=(3, 5), expansions=(2, 3), layers=(2, 3, 2, 1))
    return with_output_stride(space, output_stride)


def build(arch: SuperArch) -> SuperBackbone:
    """A super network whose batch norms are not all alike."""
    with seeded(0, "test"):
        model = SuperBackbone(arch)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def paths(arch: SuperArch, number: int) -> list[LayerPath]:
    return [draw_path(arch, None, generator(i, "test")) for i in range(number)]


def images(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 34, 48, generator=generator(0, "images"))


def prefixes(arch: SuperArch, path: Sequence[int]) -> list[str]:
    """Where the weights of each layer of a path are in the super network."""
    return [f"stages.{s}.{n}.{c[i].label}." for ((s, n), c), i in zip(arch.layers(), path, strict=True)]


def own_names(model: SuperBackbone, path: Sequence[int]) -> dict[str, str]:
    """The names a path's tensors have in the plain network, and theirs in the super network, put together by hand."""
    state = model.state_dict()
    names = {name: name for name in state if name.startswith("stem.")}
    for prefix in prefixes(model.arch, path):
        _, s, n, _, _ = prefix.split(".")
        theirs = [name for name in state if name.startswith(prefix)]
        names |= {f"stages.{s}.{n}.{name.removeprefix(prefix)}": name for name in theirs}
    return names


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_state(model: nn.Module, before: dict[str, Tensor]) -> None:
    assert [n for n, t in model.state_dict().items() if not torch.equal(t, before[n])] == []


# --- a path -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_a_path_is_the_plain_network(padding: str, output_stride: int, training: bool) -> None:
    arch = tiny_space(padding, output_stride)
    model = build(arch).train(training)
    for path in [arch.seed_path(), *paths(arch, 2)]:
        plain, names = Backbone(arch.path_arch(path)).train(training), own_names(model, path)
        state = model.state_dict()
        plain.load_state_dict({name: state[own] for name, own in names.items()})
        theirs, ours = plain(images()), model(images(), path)
        assert [info.channels for info in model.feature_info] == [feature.shape[1] for feature in ours]
        assert model.feature_info == plain.feature_info
        assert all(map(torch.equal, ours, theirs))
        model.zero_grad()
        sum(feature.square().mean() for feature in ours).backward()
        sum(feature.square().mean() for feature in theirs).backward()
        for name, p in plain.named_parameters():
            assert torch.equal(model.get_parameter(names[name]).grad, p.grad), name


def test_a_path_touches_its_own_blocks_only() -> None:
    arch = tiny_space()
    model = build(arch).train()
    for path in paths(arch, 3):
        model.zero_grad()
        before = snapshot(model)
        own = ("stem.", *prefixes(arch, path))
        sum(feature.square().mean() for feature in model(images(), path)).backward()
        assert all((p.grad is not None) == name.startswith(own) for name, p in model.named_parameters())
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        assert changed == {name for name in before if name.startswith(own) and name.endswith(statistics)}


def test_only_the_named_blocks_run() -> None:
    arch = tiny_space()
    model, calls = build(arch), []
    for op in (op for op in model.modules() if isinstance(op, MixedOp)):
        for child in op.children():
            child.register_forward_hook(lambda *_: calls.append(1))
    layers = len(list(arch.layers()))
    model(images(), [0] * layers)
    assert len(calls) == layers
    calls.clear()
    pair = Mixture((0, 1), torch.tensor([0.5, 0.5]))
    model(images(), [pair if len(candidates) > 1 else 0 for _, candidates in arch.layers()])
    assert len(calls) == layers + len(arch.searchable)


# --- a path as a plain network ----------------------------------------------------------------------------------------


def task_model(arch: SuperArch) -> Model:
    """A super network with a head of its own, which reads the last map."""
    backbone = build(arch)
    with seeded(1, "head"):
        return Model(backbone, DeepLabV3Head(backbone.feature_info, 3, 8))


def tapped_space() -> SuperArch:
    arch = tiny_space()
    widest = tuple(block for block in arch.stages[4][0] if block.expansion == 3)
    return with_taps(SuperArch(arch.seed, (*arch.stages[:4], (widest, *arch.stages[4][1:]))))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("arch", [tiny_space("same", 16), tapped_space()], ids=["same", "tapped"])
def test_a_path_network_computes_what_the_super_network_does(arch: SuperArch, training: bool) -> None:
    backbone = build(arch).train(training)
    for path in paths(arch, 3):
        plain = path_backbone(backbone, path)
        assert (type(plain), plain.arch, plain.training) == (Backbone, arch.path_arch(path), training)
        assert plain.feature_info == backbone.feature_info
        assert all(map(torch.equal, plain(images()), backbone(images(), path)))


def test_a_path_network_is_the_paths_alone_and_shares_its_weights() -> None:
    arch = tiny_space("same", 16)
    model = task_model(arch)
    for path in paths(arch, 3):
        plain = path_network(model, path)
        own = {id(model.get_submodule("backbone." + prefix[:-1])) for prefix in prefixes(arch, path)}
        others = {id(m) for op in model.modules() if isinstance(op, MixedOp) for m in op.children()} - own
        assert own <= {id(m) for m in plain.modules()}
        assert not others & {id(m) for m in plain.modules()}
        theirs = {f"backbone.{k}": f"backbone.{v}" for k, v in own_names(model.backbone, path).items()}
        for name, tensor in plain.state_dict(keep_vars=True).items():
            assert tensor is model.state_dict(keep_vars=True)[theirs.get(name, name)]
        assert torch.equal(plain(images()), model(images(), path))


def test_the_state_of_a_path_network_is_what_remapping_collects() -> None:
    arch = tiny_space()
    backbone = build(arch)
    for path in paths(arch, 3):
        collected = remap(arch, backbone.state_dict(), arch.path_arch(path)).state
        state = path_backbone(backbone, path).state_dict()
        assert list(state) == list(collected)
        assert all(torch.equal(state[name], collected[name]) for name in state)


def test_recalibrating_a_path_leaves_other_candidates_alone() -> None:
    arch = tiny_space("same", 16)
    model = task_model(arch)
    path = paths(arch, 1)[0]
    before = snapshot(model)
    cpu = Compute(torch.device("cpu"), None, False, World())
    recalibrate(path_network(model, path), iter([images(), images(3)]), 2, cpu)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    own = tuple("backbone." + prefix for prefix in ("stem.", *prefixes(arch, path)))
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {name for name in before if name.startswith((*own, "head.")) and name.endswith(statistics)}


# --- a mixture --------------------------------------------------------------------------------------------------------


def mixed_op() -> tuple[MixedOp, tuple[Block, ...]]:
    candidates = (*(Block("mbconv", 8, 8, kernel=k, expansion=e) for k in (3, 5) for e in (2, 3)), Block("skip", 8, 8))
    with seeded(0, "test"):
        return MixedOp(candidates, "relu6", 1e-5, "symmetric"), candidates


def test_mixture_is_the_softmax_sum() -> None:
    op, candidates = mixed_op()
    op.eval()
    x = torch.randn(2, 8, 9, 10, generator=generator(0, "x"))
    alpha = torch.tensor([0.3, -1.0, 2.0, 0.1, 0.7], requires_grad=True)
    outputs = [op.get_submodule(block.label)(x) for block in candidates]
    exponentials = [math.exp(a) for a in alpha.tolist()]
    by_hand = sum(e / sum(exponentials) * y for e, y in zip(exponentials, outputs, strict=True))
    mixed = op(x, Mixture(tuple(range(5)), alpha.softmax(0)))
    torch.testing.assert_close(mixed, by_hand)
    # d/d alpha_i of sum_j p_j <y_j, 1> is p_i (<y_i, 1> - sum_j p_j <y_j, 1>).
    mixed.sum().backward()
    p, scores = alpha.detach().softmax(0), torch.stack([y.detach().sum() for y in outputs])
    torch.testing.assert_close(alpha.grad, p * (scores - (p * scores).sum()), rtol=1e-4, atol=1e-4)


def test_mixture_of_some_candidates_weights_them_as_told() -> None:
    op, candidates = mixed_op()
    op.eval()
    x = torch.randn(2, 8, 9, 10, generator=generator(0, "x"))
    block = op.get_submodule(candidates[2].label)
    torch.testing.assert_close(op(x, Mixture((2, 4), torch.tensor([0.25, 0.75]))), 0.25 * block(x) + 0.75 * x)


def test_a_tap_is_what_the_stages_first_block_expands() -> None:
    arch = with_taps(tiny_seed())
    model = Backbone(arch).eval()
    stage = arch.taps[0]
    info = [entry for entry in model.feature_info if entry.tap]
    assert [(entry.stage, entry.stride, entry.channels) for entry in info] == [(4, 16, 36)]
    features, plain = model(images()), Backbone(tiny_seed()).eval()
    plain.load_state_dict(model.state_dict())
    others = plain(images())
    tap = model.feature_info.index(info[0])
    assert torch.equal(features[tap], model.stages[stage][0].expanded(others[tap - 1]))
    assert all(map(torch.equal, features[:tap] + features[tap + 1 :], others))


def test_a_block_without_expansion_cannot_be_tapped() -> None:
    last = Block("mbconv", 8, 8, stride=2)
    with pytest.raises(FnaError, match="stage 0, but that block has none"):
        with_taps(Arch(Stem(8), ((last,),)))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("tap", [False, True], ids=["plain", "tapped"])
def test_one_hot_mixture_is_the_path(training: bool, tap: bool) -> None:
    arch = tapped_space() if tap else tiny_space(output_stride=16)
    model = build(arch).train(training)
    for path in paths(arch, 3):
        choice = [
            Mixture(tuple(range(len(c))), torch.nn.functional.one_hot(torch.tensor(i), len(c)).float())
            for (_, c), i in zip(arch.layers(), path, strict=True)
        ]
        assert all(map(torch.equal, model(images(), choice), model(images(), path)))


# --- costs and probabilities ------------------------------------------------------------------------------------------


def one_hot_alphas(arch: SuperArch, path: Sequence[int]) -> list[Tensor]:
    return [
        200.0 * torch.nn.functional.one_hot(torch.tensor(i), len(c)).float()
        for (_, c), i in zip(arch.layers(), path, strict=True)
    ]


def test_one_hot_alphas_cost_what_their_path_costs() -> None:
    arch = tiny_space(output_stride=16)
    table = cost_table(arch, (96, 128))
    costs = [torch.tensor(row, dtype=torch.float64) for row in table]
    for path in paths(arch, 5):
        assert expected_cost(one_hot_alphas(arch, path), costs).item() == path_cost(table, path)


def test_expected_cost_is_the_mean_over_sampled_paths() -> None:
    arch = tiny_space()
    table = cost_table(arch, (96, 128))
    alphas = [torch.randn(len(row), generator=generator(i, "alpha")) for i, row in enumerate(table)]
    draw = generator(0, "paths")
    sampled = [float(path_cost(table, draw_path(arch, alphas, draw))) for _ in range(1500)]
    expected = expected_cost(alphas, [torch.tensor(row, dtype=torch.float32) for row in table]).item()
    mean = sum(sampled) / len(sampled)
    error = torch.tensor(sampled).std().item() / len(sampled) ** 0.5
    assert abs(mean - expected) < 4 * error


def test_expected_cost_has_the_gradient_of_the_softmax() -> None:
    alpha, cost = torch.tensor([0.2, -0.4, 1.0], requires_grad=True), torch.tensor([5.0, 1.0, 0.0])
    expected_cost([alpha, torch.zeros(1)], [cost, torch.tensor([7.0])]).backward()
    p = alpha.detach().softmax(0)
    torch.testing.assert_close(alpha.grad, p * (cost - (p * cost).sum()))


@pytest.mark.parametrize("uniform", [True, False], ids=["uniform", "softmax"])
def test_sampled_paths_follow_the_probabilities(uniform: bool) -> None:
    arch = tiny_space()
    alphas = [torch.randn(len(c), generator=generator(i, "alpha")) for i, (_, c) in enumerate(arch.layers())]
    n = 1500
    counts = [torch.zeros(len(c)) for _, c in arch.layers()]
    for step in range(n):  # one generator per step, as the search draws
        for count, index in zip(counts, draw_path(arch, None if uniform else alphas, generator(0, step)), strict=True):
            count[index] += 1
    for i in arch.searchable:
        size = len(counts[i])
        expected = n * (torch.full((size,), 1 / size) if uniform else alphas[i].softmax(0))
        chi_square = ((counts[i] - expected) ** 2 / expected).sum().item()
        freedom = size - 1
        assert chi_square < freedom + 4 * (2 * freedom) ** 0.5, f"layer {i}: {chi_square:.1f}"
    fixed = set(range(len(counts))) - set(arch.searchable)
    assert fixed
    assert all(counts[i].tolist() == [n] for i in fixed)


def test_a_path_is_a_function_of_the_generator() -> None:
    arch = tiny_space()
    with seeded(1, "elsewhere"):
        first = draw_path(arch, None, generator(0, "path", 3))
    assert draw_path(arch, None, generator(0, "path", 3)) == first
    assert len({draw_path(arch, None, generator(0, "path", step)) for step in range(20)}) > 10


def test_layers_are_drawn_independently() -> None:
    arch = tiny_space()
    a, b = arch.searchable[1], arch.searchable[2]
    drawn = [draw_path(arch, None, generator(0, "path", step)) for step in range(1500)]
    both = sum(path[a] == 0 and path[b] == 0 for path in drawn) / len(drawn)
    expected = math.prod(sum(path[i] == 0 for path in drawn) / len(drawn) for i in (a, b))
    assert abs(both - expected) < 4 * (expected / len(drawn)) ** 0.5


def test_entropy_is_relative() -> None:
    values = entropy([torch.zeros(7), torch.tensor([100.0, 0.0]), torch.zeros(1), torch.tensor([0.0, math.log(3.0)])])
    two = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert values == pytest.approx([1.0, 0.0, 0.0, two], abs=1e-6)


# --- alpha steps leave no trace ---------------------------------------------------------------------------------------


def test_frozen_weights_keep_weights_gradients_and_statistics() -> None:
    arch = tiny_space()
    model = build(arch).train()
    model.stem.norm.requires_grad_(False)  # was frozen before, and stays so
    model.stages[0].eval()
    needed = {name: p.requires_grad for name, p in model.named_parameters()}
    model(images(), arch.seed_path())[-1].mean().backward()  # a weight step left gradients
    before = snapshot(model)
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    alphas = [torch.zeros(len(c), requires_grad=True) for _, c in arch.layers()]
    with frozen_weights(model):
        model(images(), [Mixture(tuple(range(len(a))), a.softmax(0)) for a in alphas])[-1].square().mean().backward()
    assert all(alphas[i].grad is not None and alphas[i].grad.abs().max() > 0 for i in arch.searchable)
    assert_same_state(model, before)
    for name, p in model.named_parameters():
        old = gradients[name]
        assert (p.grad is None and old is None) or (p.grad is not None and old is not None and torch.equal(p.grad, old))
    assert {name: p.requires_grad for name, p in model.named_parameters()} == needed


def test_frozen_weights_normalise_as_training_does() -> None:
    arch = tiny_space()
    model = build(arch).train()
    trained = copy.deepcopy(model)(images(), arch.seed_path())
    with frozen_weights(model):
        assert all(map(torch.equal, model(images(), arch.seed_path()), trained))
        model.eval()  # batch norms fixed by `bn: frozen` go on using their running statistics
        scored = model(images(), arch.seed_path())
    assert all(map(torch.equal, model(images(), arch.seed_path()), scored))


def test_frozen_weights_end_with_an_error_too() -> None:
    model = build(tiny_space()).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

    def fail() -> None:
        with frozen_weights(model):
            assert not any(p.requires_grad for p in model.parameters())
            raise RuntimeError("a bad batch")

    with pytest.raises(RuntimeError, match="a bad batch"):
        fail()
    assert all(p.requires_grad for p in model.parameters())
    assert all(norm.track_running_stats for norm in norms)
    before = snapshot(model)
    model(images(), model.arch.seed_path())
    assert not torch.equal(model.stem.norm.running_mean, before["stem.norm.running_mean"])
