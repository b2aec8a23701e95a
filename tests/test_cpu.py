"""What `Compute.place` does on a CPU: other gradients, the same networks."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from test_supernet import tapped_space, tiny_seed
from torch import Tensor, nn

from fna.arch import with_taps
from fna.cost.madds import module_cost
from fna.nets.activation import LeanReLU6
from fna.nets.network import Backbone, Model
from fna.nets.supernet import SuperBackbone, path_network
from fna.tasks.ssdlite import SSDLiteHead
from fna.training.cpu import WideConv2d
from fna.training.depthwise import DepthwiseConv2d
from fna.training.distributed import World, replicate
from fna.training.engine import Compute

CPU = Compute(torch.device("cpu"), torch.bfloat16, True, World())
META = Compute(torch.device("meta"), None, True, World())


def detector(padding: str = "symmetric") -> Model:
    torch.manual_seed(0)
    backbone = Backbone(replace(with_taps(tiny_seed()), padding=padding))
    return Model(backbone, SSDLiteHead(backbone.feature_info, 2, 16))


def images(side: int = 64) -> Tensor:
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


def classes(model: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in model.modules()]


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    with CPU.autocast():
        output = model(x)
    sum(output[key].float().square().mean() for key in ("logits", "deltas")).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_a_placed_network_is_the_same_network(padding: str) -> None:
    plain = detector(padding).eval()
    placed = CPU.place(copy.deepcopy(plain))
    assert {DepthwiseConv2d, WideConv2d} <= set(classes(placed))
    before, after = plain.state_dict(), placed.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad(), CPU.autocast():
        expected, found = plain(images()), placed(images())
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    x = torch.empty(1, 3, 64, 64, device="meta")
    assert module_cost(plain, x) == module_cost(placed, x)


def test_relu6_keeps_nothing_but_its_output() -> None:
    plain, lean = nn.ReLU6(inplace=True), CPU.place(nn.ReLU6(inplace=True))
    assert type(lean) is LeanReLU6
    assert type(CPU.place(nn.ReLU6())) is nn.ReLU6  # what it reads may be wanted elsewhere
    x, kept = torch.tensor([-1.0, 0.0, 1.0, 6.0, 7.0], requires_grad=True), list[Tensor]()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        out = lean(x.clone())
    assert [tensor.data_ptr() for tensor in kept] == [out.data_ptr()]
    expected = plain(x.clone())
    assert torch.equal(out, expected)
    for direction in (torch.arange(1.0, 6.0), torch.full((5,), torch.inf)):
        assert torch.equal(*(torch.autograd.grad(y, x, direction, retain_graph=True)[0] for y in (out, expected)))


def test_placing_again_and_copies_change_nothing() -> None:
    placed = CPU.place(detector()).train()
    expected, kinds = gradients(placed, images()), classes(placed)
    assert classes(CPU.place(placed)) == kinds
    twin = copy.deepcopy(placed)
    assert classes(twin) == kinds
    for other in (placed, twin, replicate(twin, CPU.device, partial=False, sync_bn=False)):
        assert all(map(torch.equal, gradients(other, images()), expected))


def test_strided_convolutions_of_a_head_keep_the_librarys_gradients() -> None:
    model = CPU.place(detector())
    depthwise = {m: name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    ours = {name for m, name in depthwise.items() if type(m) is DepthwiseConv2d}
    strided = {name for m, name in depthwise.items() if m.stride != (1, 1) and name.startswith("head.")}
    assert strided
    assert ours == set(depthwise.values()) - strided


def test_other_devices_keep_the_librarys_gradients() -> None:
    assert not {DepthwiseConv2d, WideConv2d} & set(classes(META.place(detector())))


def test_paths_of_a_placed_super_network_are_placed() -> None:
    arch = tapped_space()
    backbone = SuperBackbone(arch)
    model = CPU.place(Model(backbone, SSDLiteHead(backbone.feature_info, 2, 16)))
    plain = path_network(model, arch.seed_path())
    kinds = classes(plain)
    assert DepthwiseConv2d in kinds
    assert classes(CPU.place(plain)) == kinds
